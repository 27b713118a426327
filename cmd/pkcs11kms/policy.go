package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

func (a *app) policyCommand() *cobra.Command {
	cmd := operations("policy", groupPolicies, "Try out policies: who may do what, and by which statement",
		"Key policies are set by put-key-policy, those of users, roles and groups by iam put-user-policy,\n"+
			"put-role-policy, put-group-policy and create-policy.",
		"pkcs11kms policy lint policy.json")
	cmd.AddGroup(&cobra.Group{ID: groupPolicies, Title: "Operations:"})
	cmd.AddCommand(a.policySimulateCommand(), a.policyLintCommand())
	return cmd
}

// simulation is what policy simulate prints. Statement counts from 1, as people do.
type simulation struct {
	Principal string
	Action    string
	Resource  string
	Decision  string // allowed, explicitDeny or implicitDeny, as aws iam simulate-principal-policy has them
	Reason    string
	DecidedBy *decidedBy // nil: no statement of any document
}

type decidedBy struct {
	Document  string
	Statement int
	Sid       *string
}

func (a *app) policySimulateCommand() *cobra.Command {
	cmd := verb(groupPolicies, "simulate --principal ARN --action ACTION [--key-id KEY] [--context KEY=VALUE ...]",
		"Tell whether somebody may do something",
		"Tells whether policies allow a principal an action on a key, and which statement decides. Nothing is done to the\n"+
			"key, and its state does not matter. Condition keys of the request are given by --context: kms:MacAlgorithm,\n"+
			"aws:SourceIp and the like. Those of the key, of the principal and of the time need not be given.",
		"pkcs11kms policy simulate --principal arn:aws:iam::000000000000:root --action kms:GenerateMac --key-id alias/tokens",
		"pkcs11kms policy simulate --principal arn:aws:iam::000000000000:root --action kms:CreateKey --context kms:KeySpec=HMAC_256")
	var principal, session, action, keyID *string
	var given []string
	in := newInput(cmd)
	in.text(&principal, "principal", "the ARN of a user, a role, a session of a role or the account's root (required)")
	in.text(&session, "session-policy", "what a session may at most: JSON, or file://PATH")
	in.text(&action, "action", "such as kms:GenerateMac (required)")
	in.text(&keyID, "key-id", "key id, key ARN, alias name or alias ARN; not for actions without a key")
	in.list(&given, "context", "condition keys of the request, KEY=VALUE; several values of one key by naming it again")
	in.require("principal", "action")
	cmd.Annotations = map[string]string{printsResponse: ""}
	cmd.RunE = a.localOperation("SimulatePolicy", in, func(ctx context.Context, bridge *pkcs11kms.Bridge) (any, change, error) {
		conditions, err := parseConditions(given)
		if err != nil {
			return nil, change{}, err
		}
		verdict, err := bridge.SimulatePolicy(ctx, pkcs11kms.Simulation{
			Region: a.region, Principal: *principal, Action: *action, KeyID: aws.ToString(keyID),
			Session: aws.ToString(session), Context: conditions,
		})
		return simulationOf(*principal, *action, verdict), change{}, err
	})
	return cmd
}

// parseConditions reads KEY=VALUE pairs.
func parseConditions(given []string) (map[string][]string, error) {
	conditions := map[string][]string{}
	for _, text := range given {
		name, value, ok := strings.Cut(text, "=")
		if !ok || !strings.Contains(name, ":") {
			return nil, usagef("argument --context: %q is not of the form kms:MacAlgorithm=HMAC_SHA_256", text)
		}
		name = strings.ToLower(name)
		conditions[name] = append(conditions[name], value)
	}
	return conditions, nil
}

// reasons says in words what each outcome rests on.
var reasons = map[policy.Reason]string{
	policy.NoIdentityAllow: "no policy of the principal allows it, and the key policy does not name the principal",
	policy.NoKeyPolicyAllow: "a policy of the principal allows it, " +
		"but the key policy neither names the principal nor leaves it to the account",
	policy.DeniedByKeyPolicy:       "the key policy denies it",
	policy.DeniedByIdentityPolicy:  "a policy of the principal denies it",
	policy.AllowedByKeyPolicy:      "the key policy allows it to the principal",
	policy.AllowedByIdentityPolicy: "a policy of the principal allows it",
	policy.AllowedRoot:             "the principal is the root of the account",
	policy.AllowedByGrant:          "a grant on the key allows it",
	policy.NoSessionAllow:          "others allow it, and no session policy does",
	policy.DeniedBySessionPolicy:   "a session policy denies it",
}

func simulationOf(principal, action string, v pkcs11kms.Verdict) *simulation {
	s := &simulation{Principal: principal, Action: action, Resource: v.Resource, Decision: "implicitDeny", Reason: reasons[v.Reason]}
	switch {
	case v.Allowed:
		s.Decision = "allowed"
	case v.Reason == policy.DeniedByKeyPolicy, v.Reason == policy.DeniedByIdentityPolicy, v.Reason == policy.DeniedBySessionPolicy:
		s.Decision = "explicitDeny"
	}
	if v.Statement < 0 {
		return s
	}
	s.DecidedBy = &decidedBy{Document: "key policy", Statement: v.Statement + 1}
	if v.Policy != "" {
		s.DecidedBy.Document = documentOf(v.Policy)
	}
	if v.Reason == policy.DeniedBySessionPolicy {
		s.DecidedBy.Document = "session policy"
	}
	if v.Sid != "" {
		s.DecidedBy.Sid = aws.String(v.Sid)
	}
	return s
}

// documentOf says in words which policy one is that decides, see iam.Identity.
func documentOf(policy string) string {
	if rest, ok := strings.CutPrefix(policy, "group/"); ok {
		group, policy, _ := strings.Cut(rest, ": ")
		return "policy " + policy + " of the principal's group " + group
	}
	return "policy " + policy + " of the principal"
}

func (a *app) policyLintCommand() *cobra.Command {
	cmd := verb(groupPolicies, "lint [--identity | --trust] FILE", "Find mistakes in a policy document",
		"Reads a policy document from a file, or from standard input for -, and prints what the service would refuse\n"+
			"and what is legal but probably not meant, one line each: FILE:LINE: SEVERITY: PATH: TEXT. Where a state\n"+
			"directory is named, principals that do not exist in it are found as well. The exit code is 1 when the\n"+
			"document would be refused.",
		"pkcs11kms policy lint policy.json",
		"pkcs11kms policy lint --identity generate-mac.json")
	identity := cmd.Flags().Bool("identity", false, "the document is a policy of a user, role, group or session, or a managed one")
	trust := cmd.Flags().Bool("trust", false, "the document is the trust policy of a role, and no key policy")
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("name one file, or - for standard input")
		}
		return nil
	}
	cmd.Annotations = nil
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		text, err := a.readDocument(args[0])
		if err != nil {
			hint := ""
			if path, ok := strings.CutPrefix(args[0], textFile); ok {
				hint = "FILE is a path: pkcs11kms policy lint " + shellQuote(path)
			}
			return &environmentError{fmt.Errorf("reading the document: %w", err), hint}
		}
		kind := policy.KeyPolicy
		switch {
		case *identity && *trust:
			return usagef("give --identity or --trust, not both")
		case *identity:
			kind = policy.IdentityPolicy
		case *trust:
			kind = policy.TrustPolicy
		}
		findings, err := a.findings(cmd.Context(), kind, text)
		if err != nil {
			return err
		}
		return a.lint(args[0], findings)
	}
	return cmd
}

// findings looks for the principals of a key policy where a state directory is named, which lint can do without.
func (a *app) findings(ctx context.Context, kind policy.Kind, text string) (findings []policy.Finding, err error) {
	if kind != policy.KeyPolicy {
		return pkcs11kms.LintPolicy(kind, text), nil
	}
	if _, err := a.directory(); err != nil {
		return pkcs11kms.LintPolicy(policy.KeyPolicy, text), nil
	}
	err = a.withBridge(ctx, func(bridge *pkcs11kms.Bridge) (err error) {
		findings, err = pkcs11kms.LintKeyPolicy(ctx, bridge, text)
		return err
	})
	return findings, err
}

func (a *app) readDocument(name string) (string, error) {
	source := a.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		source = f
	}
	text, err := io.ReadAll(io.LimitReader(source, maxFile))
	if err == nil && len(text) == maxFile {
		err = errors.New("it is longer than any policy")
	}
	return string(text), err
}

// lint prints the findings and tells by its error whether one of them is an error.
func (a *app) lint(name string, findings []policy.Finding) error {
	refused := false
	for _, f := range findings {
		refused = refused || f.Severity == policy.Error
		path := ""
		if f.Path != "" {
			path = visible(f.Path) + ": "
		}
		if err := a.printf("%s:%d: %s: %s%s\n", visible(name), f.Line, f.Severity, path, oneLine(f.Text)); err != nil {
			return err
		}
	}
	if refused {
		return exitError(exitRefused)
	}
	return nil
}
