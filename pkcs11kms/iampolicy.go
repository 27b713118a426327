package pkcs11kms

import (
	"context"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// policyLength is the length of a document in characters as the quotas of AWS IAM count it: without blanks.
func policyLength(document string) int {
	n := 0
	for _, r := range document {
		if !strings.ContainsRune(" \t\r\n", r) {
			n++
		}
	}
	return n
}

func checkInlineName(name string) error { return checkName("policyName", name, 128) }

// PutPrincipalPolicy gives a user or role an inline policy, or the one of this name another document. The document must be
// an identity policy as policy.ParseIdentityPolicy takes it (MalformedPolicyDocument). All of a user's together have up to
// 2,048 characters, a role's 10,240, blanks not counted (LimitExceeded). It counts at once in this process, within a second
// in every other.
func (b *Bridge) PutPrincipalPolicy(ctx context.Context, name PrincipalName, policyName, document string) error {
	var v form.Violations
	v.Hidden("policyDocument", document, 1, policyModelLimit, policyPattern)
	if err := iamInvalid(v); err != nil {
		return err
	}
	if err := checkInlineName(policyName); err != nil {
		return err
	}
	if _, err := policy.ParseIdentityPolicy(document); err != nil {
		return iamError(malformedPolicyDocument, "%v", err)
	}
	return b.changePrincipal(ctx, name, func(record *keystore.Principal) error {
		record.Policies = putInline(record.Policies, keystore.InlinePolicy{Name: policyName, Document: document})
		total := 0
		for _, inline := range record.Policies {
			total += policyLength(inline.Document)
		}
		if most := kindOf(name.Type).inlineBytes; total > most {
			return iamError(iamLimitExceeded, "Maximum policy size of %d bytes exceeded for %s %s", most, name.Type, name.Name)
		}
		return nil
	})
}

// putInline returns the policies with one more, or with another in the place of its namesake, in order.
func putInline(have []keystore.InlinePolicy, put keystore.InlinePolicy) []keystore.InlinePolicy {
	all := slices.Clone(have)
	at, found := findInline(all, put.Name)
	if found {
		all[at] = put
		return all
	}
	return slices.Insert(all, at, put)
}

func findInline(have []keystore.InlinePolicy, name string) (int, bool) {
	return slices.BinarySearchFunc(have, name, func(p keystore.InlinePolicy, name string) int { return strings.Compare(p.Name, name) })
}

// GetPrincipalPolicy returns the document of an inline policy as it was given.
func (b *Bridge) GetPrincipalPolicy(ctx context.Context, name PrincipalName, policyName string) (string, error) {
	if err := checkInlineName(policyName); err != nil {
		return "", err
	}
	record, _, err := b.readPrincipal(ctx, name)
	if err != nil {
		return "", err
	}
	at, found := findInline(record.Policies, policyName)
	if !found {
		return "", noSuchPolicy(name.Type, policyName)
	}
	return record.Policies[at].Document, nil
}

// ListPrincipalPolicies returns the names of the inline policies, in order.
func (b *Bridge) ListPrincipalPolicies(ctx context.Context, name PrincipalName) ([]string, error) {
	record, _, err := b.readPrincipal(ctx, name)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, inline := range record.Policies {
		names = append(names, inline.Name)
	}
	return names, nil
}

// DeletePrincipalPolicy removes an inline policy, or answers NoSuchEntity.
func (b *Bridge) DeletePrincipalPolicy(ctx context.Context, name PrincipalName, policyName string) error {
	if err := checkInlineName(policyName); err != nil {
		return err
	}
	return b.changePrincipal(ctx, name, func(record *keystore.Principal) error {
		at, found := findInline(record.Policies, policyName)
		if !found {
			return noSuchPolicy(name.Type, policyName)
		}
		record.Policies = slices.Delete(slices.Clone(record.Policies), at, at+1)
		return nil
	})
}
