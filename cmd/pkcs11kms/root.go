package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/jmespath/go-jmespath"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// app is one run of the program: its streams and what the global flags say. It serves one command line and is used by
// one goroutine.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	stateDir string
	region   string
	output   string
	query    string
	debug    bool
	endpoint string
	account  string // whose root acts on the state directory, and
	actAs    string // the ARN of who does; empty: the root of the account that config.yaml names

	tokenHint string // see sessionTokenHint

	search  *jmespath.JMESPath // of query; nil without one
	ran     *cobra.Command     // what the command line asks for
	started bool               // the command line was understood: an error is no usage error any more
}

// The groups of the root help.
const (
	groupSetup      = "setup"
	groupAdmin      = "admin"
	groupKeys       = "keys"
	groupMACs       = "macs"
	groupSignatures = "signatures"
	groupTokens     = "tokens"
	groupAliases    = "aliases"
	groupTags       = "tags"
	groupPolicies   = "policies"
	groupGrants     = "grants"
	groupRotation   = "rotation"
	groupRandom     = "random"
	groupMore       = "more"
)

// helpGroups are the groups in the order of the help.
var helpGroups = []*cobra.Group{
	{ID: groupSetup, Title: "Set-up and health:"},
	{ID: groupAdmin, Title: "The server:"},
	{ID: groupKeys, Title: "Keys:"},
	{ID: groupMACs, Title: "Message authentication:"},
	{ID: groupSignatures, Title: "Signatures:"},
	{ID: groupTokens, Title: "JSON Web Tokens:"},
	{ID: groupAliases, Title: "Aliases:"},
	{ID: groupTags, Title: "Tags:"},
	{ID: groupPolicies, Title: "Key policies:"},
	{ID: groupGrants, Title: "Grants:"},
	{ID: groupRotation, Title: "Rotation, which HMAC keys and key pairs do not have:"},
	{ID: groupRandom, Title: "Random bytes:"},
	{ID: groupMore, Title: "More:"},
}

// printsResponse is the annotation of the verbs that print an API response, which --query and --output shape.
const printsResponse = "prints-response"

// takesEndpoint is the annotation of the verbs that can ask a server in place of the state directory.
const takesEndpoint = "takes-endpoint"

// allRegions is the annotation of the verbs for which no region can be chosen.
const allRegions = "all-regions"

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "pkcs11kms",
		Short: "The AWS KMS API for HMAC keys and signing keys on your own PKCS#11 token",
		Long: "pkcs11kms answers the HMAC and signing part of the AWS KMS API from a PKCS#11 token of your own, by the\n" +
			"verbs, flags and output of \"aws kms\". Key material is made and used inside the token and never leaves it.\n" +
			"Whoever may read the state directory acts as the account's root. \"serve\" answers the aws CLI and every AWS\n" +
			"SDK; with --endpoint-url the verbs for keys, MACs, users and roles ask such a server.",
		Example: "  pkcs11kms init --softhsm --state-dir ./kms\n" +
			"  export PKCS11KMS_STATE_DIR=./kms\n" +
			"  pkcs11kms create-key --key-spec HMAC_256 --key-usage GENERATE_VERIFY_MAC\n" +
			"  pkcs11kms list-keys --query 'Keys[].KeyId' --output text\n" +
			"  pkcs11kms list-keys --endpoint-url http://127.0.0.1:4599",
		Version:           versionText(), // for --version and -v
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.begin(cmd) },
	}
	root.SetFlagErrorFunc(flagError)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetUsageFunc(usageOf(root.UsageFunc()))
	a.globalFlags(root)
	root.AddGroup(helpGroups...)
	root.SetHelpCommandGroupID(groupMore)
	root.SetCompletionCommandGroupID(groupMore)
	root.AddCommand(a.initCommand(), a.doctorCommand(), crosscheckChildCommand(a), a.benchCommand(), a.backupCommand(), a.restoreCommand(),
		a.serveCommand(), a.auditCommand(), a.iamCommand(), a.serviceKeyCommand(), a.versionCommand(),
		a.createKeyCommand(), a.adoptKeyCommand(), a.describeKeyCommand(), a.getKeyLastUsageCommand(), a.listKeysCommand(),
		a.enableKeyCommand(), a.disableKeyCommand(),
		a.getParametersForImportCommand(), a.importKeyMaterialCommand(), a.deleteImportedKeyMaterialCommand(),
		a.updateKeyDescriptionCommand(), a.scheduleKeyDeletionCommand(), a.cancelKeyDeletionCommand(),
		a.generateMacCommand(), a.verifyMacCommand(), a.macCommand(), a.generateRandomCommand(),
		a.signCommand(), a.verifyCommand(), a.getPublicKeyCommand(),
		a.jwtCommand(),
		a.createAliasCommand(), a.updateAliasCommand(), a.deleteAliasCommand(), a.listAliasesCommand(),
		a.tagResourceCommand(), a.untagResourceCommand(), a.listResourceTagsCommand(),
		a.getKeyPolicyCommand(), a.putKeyPolicyCommand(), a.listKeyPoliciesCommand(), a.policyCommand(),
		a.createGrantCommand(), a.listGrantsCommand(), a.listRetirableGrantsCommand(), a.retireGrantCommand(), a.revokeGrantCommand(),
		a.getKeyRotationStatusCommand(), a.enableKeyRotationCommand(), a.disableKeyRotationCommand(), a.rotateKeyOnDemandCommand(),
		a.listKeyRotationsCommand())
	return root
}

// usageOf adds to cobra's usage text what the root's says beside. A template would do it too, but then the linker keeps every method of
// every type, five megabytes of them, since templates call methods by name.
func usageOf(usual func(*cobra.Command) error) func(*cobra.Command) error {
	return func(cmd *cobra.Command) error {
		err := usual(cmd)
		if err == nil && !cmd.HasParent() {
			_, err = fmt.Fprint(cmd.OutOrStderr(), "\n"+environmentHelp()+"\n"+exitCodesHelp)
		}
		return err
	}
}

func (a *app) globalFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&a.stateDir, "state-dir", "", "the state directory that init made (or "+envStateDir.name+")")
	flags.StringVar(&a.endpoint, "endpoint-url", "",
		"ask the server at this URL (or "+envKMSEndpoint.name+" where no state directory is given), "+
			"with the AWS credentials of environment or profile")
	flags.StringVar(&a.region, "region", "",
		"the region (default: that of the state directory, or with --endpoint-url of the AWS configuration)")
	flags.StringVar(&a.output, "output", "json", "the form of the response: json, text or table")
	flags.StringVar(&a.query, "query", "", "a JMESPath expression that picks from the response")
	flags.StringVar(&a.account, "account-id", "", "act as the root of this account of the state directory (default: that of config.yaml)")
	flags.StringVar(&a.actAs, "as", "", "act as the user, role or root with this ARN on the state directory")
	flags.BoolVar(&a.debug, "debug", false, "write the log to standard error")
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputFormats, cobra.ShellCompDirectiveNoFileComp)))
}

// flagError is what is wrong with a command line whose flags cannot be read. Below a command that only has others below it, a
// word that names none of them is the mistake, and its flags are only strange because of that.
func flagError(cmd *cobra.Command, err error) error {
	if words := cmd.Flags().Args(); cmd.HasSubCommands() && cmd.HasParent() && len(words) > 0 {
		return unknownOperation(cmd.Name(), words[0])
	}
	return err
}

// must ends the program over a mistake in its own tables, which every run and test would show.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// begin checks the global flags before any verb runs: a key must not be made and then not be shown for a typing error.
func (a *app) begin(cmd *cobra.Command) error {
	if !slices.Contains(outputFormats, a.output) {
		return usagef("argument --output: %q is not one of %s", a.output, strings.Join(outputFormats, ", "))
	}
	if err := a.checkFit(cmd); err != nil {
		return err
	}
	if cmd.Flags().Changed("query") {
		search, err := jmespath.Compile(a.query)
		if err != nil {
			return usagef("bad value for --query %q: %w", a.query, err)
		}
		if _, err := search.Search(map[string]any{}); unknownFunction(err) { // which Compile does not look at
			return usagef("bad value for --query %q: %w", a.query, err)
		}
		a.search = search
	}
	a.ran, a.started = cmd, true
	return nil
}

// checkFit refuses global flags that the verb cannot honour.
func (a *app) checkFit(cmd *cobra.Command) error {
	has := func(annotation string) bool {
		_, ok := cmd.Annotations[annotation]
		return ok
	}
	given := func(flag string) bool { return cmd.Flags().Changed(flag) }
	for _, flag := range []string{"query", "output"} {
		if given(flag) && !has(printsResponse) {
			return usagef("--%s does not go with %s, which prints no API response", flag, cmd.Name())
		}
	}
	acting := a.account != "" || a.actAs != ""
	switch {
	case a.account != "" && a.actAs != "":
		return usagef("--account-id does not go with --as, whose ARN names an account")
	case acting && given("endpoint-url"):
		return a.actsByCredentials()
	case acting && !has(takesEndpoint):
		return usagef("--account-id and --as do not go with %s, which is about the whole of the state directory", cmd.Name())
	case given("region") && has(allRegions) && !given("endpoint-url"):
		return usagef("--region does not go with %s, which works for all regions of the state directory", cmd.Name())
	case !given("endpoint-url"):
		return nil
	case !has(takesEndpoint):
		return &usageError{err: fmt.Errorf("--endpoint-url does not go with %s, which no server can be asked for", cmd.Name()),
			hint: "it needs the token itself: run it where the state directory is, and name that by --state-dir"}
	case given("state-dir"):
		return usagef("--state-dir does not go with --endpoint-url: either the directory is used or the server asked")
	}
	return checkEndpoint("argument --endpoint-url", a.endpoint)
}

// config reads the state directory and applies the flags and the environment.
func (a *app) config() (statedir.Config, error) {
	dir, err := a.directory()
	if err != nil {
		return statedir.Config{}, err
	}
	cfg, err := statedir.Load(dir)
	if err != nil {
		return statedir.Config{}, err
	}
	if a.region != "" {
		if _, ok := cfg.Regions[a.region]; !ok {
			return statedir.Config{}, usagef("region %q is not configured in %q, only %s", a.region, dir, regionsOf(cfg))
		}
		cfg.DefaultRegion = a.region
	}
	if err := usePINFromEnvironment(cfg, dir); err != nil {
		return statedir.Config{}, err
	}
	if a.debug {
		cfg.Logger = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return cfg, nil
}

// oneShotConfig is config for a process that does one thing and ends: it must not destroy keys on the way, and the rate of
// its requests says nothing about anybody's.
func (a *app) oneShotConfig() (statedir.Config, error) {
	cfg, err := a.config()
	cfg.ShortLived, cfg.Quotas.NoRates = true, true
	return cfg, err
}

func regionsOf(cfg statedir.Config) string {
	return strings.Join(slices.Sorted(maps.Keys(cfg.Regions)), ", ")
}

// usePINFromEnvironment gives the region its PIN of the environment, if there is one. Among several regions none is
// chosen: the wrong token would count a wrong attempt, and enough of them lock it.
func usePINFromEnvironment(cfg statedir.Config, dir string) error {
	pin := pinFromEnvironment()
	if pin == nil {
		return nil
	}
	if len(cfg.Regions) > 1 {
		return &environmentError{
			fmt.Errorf("%s is set, and which token it is for cannot be told: %q configures the regions %s", envPIN.name, dir, regionsOf(cfg)),
			"unset " + envPIN.name + "\nand name each region's PIN file in config.yaml, by pin-source in the URI of its token"}
	}
	for name, region := range cfg.Regions {
		region.PIN = pin
		cfg.Regions[name] = region
	}
	return nil
}

// pinFromEnvironment returns nil when the environment has no PIN. The PIN is read again at each log-in and kept nowhere.
func pinFromEnvironment() func(context.Context) (string, error) {
	if envPIN.value() == "" {
		return nil
	}
	return func(context.Context) (string, error) { return envPIN.value(), nil }
}

// withToken opens the state directory for the time that use takes, in the name of whom the command line names.
func (a *app) withToken(ctx context.Context, use func(*pkcs11kms.Client) error) (err error) {
	return a.withBridge(ctx, func(bridge *pkcs11kms.Bridge) error {
		client, err := bridge.Client("")
		if err != nil {
			return err
		}
		caller, err := a.caller(ctx, bridge)
		if err != nil {
			return err
		}
		return use(client.As(caller))
	})
}

// caller is in whose name the state directory is used.
func (a *app) caller(ctx context.Context, bridge *pkcs11kms.Bridge) (caller pkcs11kms.Caller, err error) {
	switch {
	case a.account != "":
		if caller, err = bridge.RootOf(ctx, a.account); err != nil {
			err = &usageError{err: fmt.Errorf("argument --account-id: %w", err), hint: "see which there are: pkcs11kms iam list-accounts"}
		}
		return caller, err
	case a.actAs != "":
		if caller, err = bridge.Caller(ctx, a.actAs); err != nil {
			err = &usageError{err: fmt.Errorf("argument --as: %w", err)}
		}
		return caller, err
	}
	return bridge.Root(), nil
}

// actsByCredentials refuses to say who acts where a server is asked.
func (a *app) actsByCredentials() error {
	return usagef("--account-id and --as do not go with a server, which is asked as whoever the AWS credentials are")
}

// withBridge opens the state directory for the time that use takes, for what is no operation of the KMS API.
func (a *app) withBridge(ctx context.Context, use func(*pkcs11kms.Bridge) error) (err error) {
	cfg, err := a.oneShotConfig()
	if err != nil {
		return err
	}
	bridge, err := statedir.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer closing(bridge, &err)
	return use(bridge)
}

// withRoot is withBridge with the client of the account's root in the default region.
func (a *app) withRoot(ctx context.Context, use func(*pkcs11kms.Client) error) error {
	return a.withBridge(ctx, func(bridge *pkcs11kms.Bridge) error {
		client, err := bridge.Client("")
		if err != nil {
			return err
		}
		return use(client.As(bridge.Root()))
	})
}

// closing closes what was opened of the state directory. An error of that joins the one that is there.
func closing(opened io.Closer, err *error) {
	if closeErr := opened.Close(); closeErr != nil {
		*err = errors.Join(*err, fmt.Errorf("closing the state directory: %w", closeErr))
	}
}
