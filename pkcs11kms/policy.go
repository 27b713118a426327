package pkcs11kms

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// A key policy is stored with the unique ids of the users and roles that it names, as in AWS: a namesake that is made later
// has no access. GetKeyPolicy shows the ARNs of those that are still there, and the unique ids of the others.

// defaultPolicyOf is the policy of a key that was created without one: the text that GetKeyPolicy of the real service
// returns for it.
func defaultPolicyOf(root Caller) string {
	return `{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {
      "AWS" : "` + root.ARN() + `"
    },
    "Action" : "kms:*",
    "Resource" : "*"
  } ]
}`
}

// defaultPolicyFor is the policy of the keys of an account that were created without one. It is kept, so the account must be one that there
// is: anybody can name others.
func (b *Bridge) defaultPolicyFor(account string) (*policy.Document, error) {
	if kept, ok := b.defaultPolicies.Load(account); ok {
		return kept.(*policy.Document), nil
	}
	document, err := policy.ParseKeyPolicy(defaultPolicyOf(b.core.Identities.Root(account)))
	if err != nil {
		return nil, fmt.Errorf("reading the default key policy: %w", err)
	}
	b.defaultPolicies.Store(account, document)
	return document, nil
}

// The texts of the real service.
const (
	invalidPrincipalsText = "Policy contains a statement with one or more invalid principals."
	lockoutText           = "The new key policy will not allow you to update the key policy in the future."
)

// givenPolicy reads a policy that a key is to have, and returns the text to store. The caller must be allowed to change it
// later, unless bypass says that it need not be.
func (c *Client) givenPolicy(ctx context.Context, text string, k *key, bypass bool) (string, error) {
	if quota := c.bridge.cfg.Quotas.PolicyBytes; len(text) > quota {
		return "", apierr.LimitExceeded(fmt.Sprintf("The policy document exceeds the maximum length of %d bytes.", quota))
	}
	given, err := policy.ParseKeyPolicy(text)
	if err != nil {
		return "", refusedPolicy(err)
	}
	bound, err := c.bridge.bindPolicy(ctx, k.Record.Account, given)
	if err != nil {
		return "", err
	}
	if bypass {
		return bound.Text(), nil
	}
	later := request{given: givenBypass(false)} // the next PutKeyPolicy, not what is asked for now
	q := question{resource: k.ARN, document: bound, about: conditions{req: &later, key: k, ref: k.Record.Ref()}}
	d, err := c.decision(ctx, ops.PutKeyPolicy, &q)
	if err == nil && !d.Allowed {
		err = apierr.MalformedPolicy(lockoutText)
	}
	return bound.Text(), err
}

// refusedPolicy is the answer to a document that cannot be a key policy. An invalid principal has the text of the real service,
// and the place of it.
func refusedPolicy(err error) error {
	text := err.Error()
	if refused, ok := errors.AsType[*policy.SyntaxError](err); ok && refused.InvalidPrincipal {
		text = invalidPrincipalsText + " " + text
	}
	return apierr.MalformedPolicy(text)
}

// LintKeyPolicy is LintPolicy for a key policy, and looks for the users and roles that it names: PutKeyPolicy refuses those that
// there are not.
func LintKeyPolicy(ctx context.Context, b *Bridge, text string) ([]policy.Finding, error) {
	findings := LintPolicy(policy.KeyPolicy, text)
	document, err := policy.ParseKeyPolicy(text)
	if err != nil {
		return findings, nil // which has the reason
	}
	_, unknown, err := b.core.Identities.PrincipalIDs(ctx, b.cfg.AccountID, document)
	for _, refused := range unknown {
		findings = append(findings, policy.Finding{Line: refused.Line, Path: refused.Path, Severity: policy.Error, Text: refused.Reason})
	}
	slices.SortStableFunc(findings, func(a, b policy.Finding) int { return cmp.Compare(a.Line, b.Line) })
	return findings, err
}

// bindPolicy puts the unique ids of users and roles into the place of their ARNs, with the account before those that are not of the key's.
// Principals that do not exist here are refused; accounts are taken whether there are such or not.
func (b *Bridge) bindPolicy(ctx context.Context, account string, given *policy.Document) (*policy.Document, error) {
	ids, unknown, err := b.core.Identities.PrincipalIDs(ctx, account, given)
	if err != nil {
		return nil, err
	}
	if len(unknown) > 0 {
		return nil, refusedPolicy(unknown[0])
	}
	return policy.ParseKeyPolicy(given.MapPrincipals(func(name string) string {
		if id, ok := ids[name]; ok {
			return id
		}
		return name
	}))
}

// isAccountRoot tells whether an ARN is that of an account.
func (b *Bridge) isAccountRoot(arn string) bool {
	_, ok := b.core.Identities.RootAccount(arn)
	return ok
}

// shownPolicy is the text of a key's policy for those who ask for it.
func (b *Bridge) shownPolicy(ctx context.Context, k *key) (string, error) {
	document, err := k.policy()
	if err != nil {
		return "", err
	}
	return b.core.Identities.ShownPolicy(ctx, k.Record.Account, document)
}
