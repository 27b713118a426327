package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/loadtest"
)

const (
	// maxCallers bounds the memory and the connections of a measurement.
	maxCallers = 1024
	// maxMessage is what the API takes.
	maxMessage = 4096
	// benchGrace is how long calls may take to come back at the end of a step, beyond their deadline.
	benchGrace = 30 * time.Second
)

// defaultLadder are the concurrencies that are measured where none are named.
var defaultLadder = []int{1, 2, 4, 8, 16, 32}

func (a *app) benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "bench [flags]",
		GroupID: groupSetup,
		Short:   "Measure how many operations a second the HSM does",
		Long: "Measure how many operations a second the HSM does, and how long each takes.\n\n" +
			"Makes a throw-away key, or uses the one of --key-id, and has it make MACs or signatures, with each number of\n" +
			"callers of --concurrency in turn: a caller begins its next operation when the one before has come back. Prints\n" +
			"operations a second, latencies, errors, and the least number of sessions (config.yaml) that reaches 95 % of\n" +
			"the best rate. With --endpoint-url it measures a server, over HTTP and with signed requests.\n\n" +
			"Answers are checked: MACs of the same message must be equal, what is verified must be valid, and one signature\n" +
			"in 64 is verified with the public key. A wrong answer is an error, and any error makes the exit code 1. Of a\n" +
			"server nothing is asked a second time, so that its refusals (ThrottlingException) show.\n\n" +
			"The API deletes no key at once: the throw-away key is scheduled for deletion after 7 days, the least there is,\n" +
			"also after Ctrl-C and errors. It is of no use from then on. Nothing is left behind with --key-id.",
		Example: "  pkcs11kms bench --key-spec HMAC_256 --concurrency 1,2,4,8 --duration 1s --warm-up 100ms\n" +
			"  pkcs11kms bench --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --operation VerifyMac --concurrency 16 --duration 1s --json\n" +
			"  pkcs11kms bench --key-spec ECC_NIST_P256 --concurrency 4 --duration 1s --deadline 2s",
		Args:        noArguments,
		Annotations: map[string]string{takesEndpoint: ""},
	}
	b := &bench{app: a}
	made := pkcs11kms.KeySpecs()
	flags := cmd.Flags()
	spec := flags.String("key-spec", string(types.KeySpecHmac256), "of the throw-away key: "+strings.Join(namesOf(made), ", "))
	must(cmd.RegisterFlagCompletionFunc("key-spec", cobra.FixedCompletions(namesOf(made), cobra.ShellCompDirectiveNoFileComp)))
	flags.StringVar(&b.keyID, "key-id", "", "use this key in place of a throw-away one: a key id, key ARN, alias name or alias ARN")
	flags.StringVar(&b.operation, "operation", "", strings.Join(loadtest.Operations(), ", ")+
		" (default: GenerateMac for HMAC keys, Sign for key pairs)")
	must(cmd.RegisterFlagCompletionFunc("operation", cobra.FixedCompletions(loadtest.Operations(), cobra.ShellCompDirectiveNoFileComp)))
	flags.IntVar(&b.messageBytes, "message-bytes", 32, "the length of the message, 1 to 4096")
	ladder := flags.String("concurrency", "", "how many callers at once; several numbers with commas are measured in turn\n"+
		"(default: 1,2,4 and so on to 32, or to the sessions there are)")
	flags.DurationVar(&b.plan.Duration, "duration", 5*time.Second, "how long each concurrency is measured")
	flags.DurationVar(&b.plan.WarmUp, "warm-up", time.Second, "how long each runs before, which is not counted")
	flags.DurationVar(&b.plan.Deadline, "deadline", 0, "give each call up after this time, as servers do (default: none)")
	flags.BoolVar(&b.asJSON, "json", false, "print the figures as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if flags.Changed("key-id") && flags.Changed("key-spec") {
			return usagef("--key-id and --key-spec do not go together")
		}
		if flags.Changed("concurrency") {
			if b.plan.Concurrency, err = parseLadder(*ladder); err != nil {
				return err
			}
		}
		b.spec = types.KeySpec(*spec)
		if err := b.check(); err != nil {
			return err
		}
		return a.bench(cmd.Context(), b)
	}
	return cmd
}

// parseLadder reads numbers of callers. The order of the measurements is theirs by size: a token is warm for the next.
func parseLadder(text string) (ladder []int, err error) {
	for word := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 1 || n > maxCallers {
			return nil, usagef("argument --concurrency: %q is no number of callers from 1 to %d", word, maxCallers)
		}
		ladder = append(ladder, n)
	}
	slices.Sort(ladder)
	return slices.Compact(ladder), nil
}

// check refuses what cannot be measured before anything is made.
func (b *bench) check() error {
	switch p := b.plan; {
	case p.Duration <= 0:
		return usagef("argument --duration: %v is not positive", p.Duration)
	case p.WarmUp < 0:
		return usagef("argument --warm-up: %v is negative", p.WarmUp)
	case p.Deadline < 0:
		return usagef("argument --deadline: %v is negative", p.Deadline)
	case b.messageBytes < 1 || b.messageBytes > maxMessage:
		return usagef("argument --message-bytes: %d is not from 1 to %d", b.messageBytes, maxMessage)
	case b.operation != "" && !slices.Contains(loadtest.Operations(), b.operation):
		return usagef("argument --operation: %q is not one of %s", b.operation, strings.Join(loadtest.Operations(), ", "))
	case b.keyID != "":
		return nil // what it can do, the service knows
	case !slices.Contains(pkcs11kms.KeySpecs(), b.spec):
		return usagef("argument --key-spec: %q is not one of %s", string(b.spec), strings.Join(namesOf(pkcs11kms.KeySpecs()), ", "))
	}
	_, err := loadtest.OperationOf(loadtest.UsageOf(b.spec), b.operation)
	return unfit(err)
}

// unfit makes a usage error of an operation that does not go with the key.
func unfit(err error) error {
	if errors.Is(err, loadtest.ErrUnfit) {
		return &usageError{err: err}
	}
	return err
}

// fit chooses the numbers of callers for a pool of sessions, or refuses those that were named and would only wait for each other.
func (b *bench) fit(sessions int) error {
	if len(b.plan.Concurrency) == 0 {
		for _, n := range defaultLadder {
			b.plan.Concurrency = append(b.plan.Concurrency, min(n, sessions))
		}
		b.plan.Concurrency = slices.Compact(b.plan.Concurrency)
	}
	if most := b.plan.Concurrency[len(b.plan.Concurrency)-1]; most > sessions {
		return &usageError{err: fmt.Errorf("argument --concurrency: %s at once are more than the pool has sessions, which is %d",
			counted(most, "caller"), sessions),
			hint: "name fewer, or set a larger number of sessions in config.yaml, as far as the token has them"}
	}
	return nil
}

// bench measures the token of the state directory, or a server.
func (a *app) bench(ctx context.Context, b *bench) error {
	if a.usesDirectory() {
		return a.withBridge(ctx, func(bridge *pkcs11kms.Bridge) error {
			client, err := bridge.Client("")
			if err != nil {
				return err
			}
			b.sessions = func() pkcs11kms.SessionStats { return bridge.Stats().Sessions[client.Region()] }
			if err := b.fit(b.sessions().Size); err != nil {
				return err
			}
			caller, err := a.caller(ctx, bridge)
			if err != nil {
				return err
			}
			client = client.As(caller)
			b.keys, b.measured = client, client
			return b.run(ctx)
		})
	}
	if len(b.plan.Concurrency) == 0 {
		b.plan.Concurrency = defaultLadder
	}
	cfg, err := a.serverConfig(ctx)
	if err != nil {
		return err
	}
	keys, err := a.remoteClient(ctx, cfg)
	if err != nil {
		return err
	}
	measured, err := a.remoteClient(ctx, cfg, forMeasuring(slices.Max(b.plan.Concurrency)))
	if err != nil {
		return err
	}
	b.keys, b.measured = keys, measured
	return a.remoteError(b.run(ctx))
}
