package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
)

// The second opinion comes from a library that insists on initialising and finalizing the module itself, and that
// crashes on some modules. It therefore runs in a process of its own: this binary again, with the hidden verb below.
// The job goes to the child's standard input, PIN included, since others can read arguments and environment.
const crosscheckVerb = "crosscheck-child"

// crossJob is what the child is asked for.
type crossJob struct {
	Token doctor.TokenReport
	PIN   string
	Keys  []crossKey
}

// crossKey is one key and the message to authenticate with it.
type crossKey struct {
	CKAID     []byte
	Algorithm types.MacAlgorithmSpec
	Message   []byte
}

// crossAnswer is what the child found: one MAC for each key, in order, or why there are none.
type crossAnswer struct {
	Error string
	MACs  []crossMAC
}

type crossMAC struct {
	MAC   []byte
	Error string
}

var algorithmOf = map[string]types.MacAlgorithmSpec{
	string(types.KeySpecHmac224): types.MacAlgorithmSpecHmacSha224,
	string(types.KeySpecHmac256): types.MacAlgorithmSpecHmacSha256,
	string(types.KeySpecHmac384): types.MacAlgorithmSpecHmacSha384,
	string(types.KeySpecHmac512): types.MacAlgorithmSpecHmacSha512,
}

func crosscheckChildCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    crosscheckVerb,
		Hidden: true,
		Args:   noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var job crossJob
			if err := json.NewDecoder(a.stdin).Decode(&job); err != nil {
				return errors.New("reading the job: not one of doctor --crosscheck") // the decoder's error may show the PIN
			}
			return json.NewEncoder(a.stdout).Encode(secondOpinion(cmd.Context(), job))
		},
	}
}

// crosscheckAll compares the MACs of every enabled HMAC key of every region whose token has passed its examination: no other
// is worth another log-in.
func crosscheckAll(ctx context.Context, cfg statedir.Config, report *doctor.Report) (checks []doctor.Check) {
	for _, region := range report.Regions {
		if region.Token == nil {
			checks = append(checks, crossFinding(region.Name, doctor.StatusError, "not done: the token could not be opened"))
			continue
		}
		if tokenFailed(report, region.Name) {
			checks = append(checks, crossFinding(region.Name, doctor.StatusError, "not done: something is wrong with the token"))
			continue
		}
		found, err := crosscheckRegion(ctx, cfg, region)
		if err != nil {
			check := crossFinding(region.Name, doctor.StatusError, err.Error())
			check.Hint = hintOf(err)
			if errors.Is(err, errCrashed) {
				check.Status, check.Hint = doctor.StatusWarning, "ask another client, such as pkcs11-tool --sign"
			}
			found = []doctor.Check{check}
		}
		checks = append(checks, found...)
	}
	return checks
}

func tokenFailed(report *doctor.Report, region string) bool {
	return slices.ContainsFunc(report.Checks, func(c doctor.Check) bool {
		return c.Area == "token" && c.Subject == region && c.Status == doctor.StatusError
	})
}

func crossFinding(subject, status, text string) doctor.Check {
	return doctor.Check{Area: "crosscheck", Subject: subject, Status: status, Text: text}
}

func crosscheckRegion(ctx context.Context, cfg statedir.Config, region doctor.RegionReport) ([]doctor.Check, error) {
	job := crossJob{Token: *region.Token}
	var ids []string
	for _, key := range region.Keys {
		algorithm, known := algorithmOf[key.KeySpec]
		if key.State != string(types.KeyStateEnabled) || key.Object == nil || !known || key.Service {
			continue
		}
		id, err := hex.DecodeString(key.CKAID)
		if err != nil {
			return nil, fmt.Errorf("malformed CKA_ID %q", key.CKAID)
		}
		ids = append(ids, key.KeyID)
		job.Keys = append(job.Keys, crossKey{CKAID: id, Algorithm: algorithm, Message: randomMessage()})
	}
	if len(ids) == 0 {
		return []doctor.Check{crossFinding(region.Name, doctor.StatusOK, "no enabled key to compare")}, nil
	}
	ours, err := ownMACs(ctx, cfg, region.Name, ids, job.Keys)
	if err != nil {
		return nil, err
	}
	configured := cfg.Regions[region.Name]
	if job.PIN, err = configured.ReadPIN(ctx); err != nil {
		return nil, fmt.Errorf("reading the PIN: %w", err)
	}
	theirs, err := askChild(ctx, job, configured.SoftHSMConfig)
	if err != nil {
		return nil, err
	}
	var checks []doctor.Check
	for i, id := range ids {
		checks = append(checks, compare(id, ours[i], theirs[i]))
	}
	return checks, nil
}

func randomMessage() []byte {
	message := make([]byte, 32)
	rand.Read(message) // never fails, see crypto/rand
	return message
}

func compare(id string, ours, theirs crossMAC) doctor.Check {
	switch {
	case ours.Error != "":
		return crossFinding(id, doctor.StatusError, "this program makes no MAC: "+ours.Error)
	case theirs.Error != "":
		return crossFinding(id, doctor.StatusError, "crypto11 makes no MAC: "+theirs.Error)
	case subtle.ConstantTimeCompare(ours.MAC, theirs.MAC) != 1:
		check := crossFinding(id, doctor.StatusError, "different: crypto11 makes another MAC with the same object")
		check.Hint = "do not use the key until it is known which of the two is wrong; ask a third, such as pkcs11-tool --sign"
		return check
	}
	return crossFinding(id, doctor.StatusOK, "equal: crypto11 makes the same MAC")
}

// ownMACs makes the MACs by the API. It opens the one region: to be wrong about another one's PIN is not its business.
func ownMACs(ctx context.Context, cfg statedir.Config, region string, ids []string, keys []crossKey) (macs []crossMAC, err error) {
	cfg.DefaultRegion = region
	cfg.OnlyRegion = region
	client, err := statedir.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	for i, key := range keys {
		out, err := client.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: aws.String(ids[i]), MacAlgorithm: key.Algorithm, Message: key.Message})
		if err != nil {
			macs = append(macs, crossMAC{Error: err.Error()})
			continue
		}
		macs = append(macs, crossMAC{MAC: out.Mac})
	}
	return macs, nil
}

// errCrashed says that the other library crashed, which is its own fault or the module's, and says nothing of the keys.
var errCrashed = errors.New("crypto11 did not survive in its process")

// childGrace is how long a child that was told to end may keep its output open.
const childGrace = 5 * time.Second

// askChild runs the child. Whatever becomes of it, a crash of the module included, is an error and no more.
func askChild(ctx context.Context, job crossJob, softHSMConfig string) ([]crossMAC, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	text, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	child := exec.CommandContext(ctx, program, crosscheckVerb)
	child.Args[0] = os.Args[0]
	child.Env = childEnvironment()
	if softHSMConfig != "" {
		child.Env = childEnvironment(softhsm.EnvConfig + "=" + softHSMConfig)
	}
	child.WaitDelay = childGrace
	child.Stdin = bytes.NewReader(text)
	child.Stderr = io.Discard // a crash report may hold anything
	out, err := child.Output()
	var answer crossAnswer
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, fmt.Errorf("%w (%w): its opinion cannot be had of this module", errCrashed, err)
	case json.Unmarshal(out, &answer) != nil:
		return nil, errors.New("crypto11's process gave no answer that can be read")
	case answer.Error != "":
		return nil, fmt.Errorf("crypto11 cannot open the token: %s", answer.Error)
	case len(answer.MACs) != len(job.Keys):
		return nil, fmt.Errorf("crypto11 answered for %d keys in place of %d", len(answer.MACs), len(job.Keys))
	}
	return answer.MACs, nil
}
