package iam

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
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

var (
	putInlinePolicy    = byType{ops.PutUserPolicy, ops.PutRolePolicy, ops.PutGroupPolicy}
	getInlinePolicy    = byType{ops.GetUserPolicy, ops.GetRolePolicy, ops.GetGroupPolicy}
	listInlinePolicies = byType{ops.ListUserPolicies, ops.ListRolePolicies, ops.ListGroupPolicies}
	deleteInlinePolicy = byType{ops.DeleteUserPolicy, ops.DeleteRolePolicy, ops.DeleteGroupPolicy}
)

// PutPrincipalPolicy gives a user, role or group an inline policy, or the one of this name another document. The document must be an
// identity policy as policy.ParseIdentityPolicy takes it (MalformedPolicyDocument). All of a user's together have up to 2,048
// characters, a role's 10,240, a group's 5,120, blanks not counted (LimitExceeded). It counts at once in this process, within a second
// in every other. (PutUserPolicy, PutRolePolicy, PutGroupPolicy)
func (c *Client) PutPrincipalPolicy(ctx context.Context, name PrincipalName, policyName, document string) error {
	in := name.input()
	in["policyName"], in["policyDocument"] = policyName, document
	return c.change(ctx, putInlinePolicy, name, request{input: in, form: checkInline(policyName, document)},
		func(record *keystore.Principal) error {
			record.Policies = putInline(record.Policies, keystore.InlinePolicy{Name: policyName, Document: document})
			total := 0
			for _, inline := range record.Policies {
				total += policyLength(inline.Document)
			}
			if most := kindOf(name.Type).inlineBytes; total > most {
				return failure(limitExceeded, "Maximum policy size of %d bytes exceeded for %s %s", most, name.Type, name.Name)
			}
			return nil
		})
}

// checkInline checks an inline policy that is given.
func checkInline(name, document string) error {
	var v form.Violations
	v.Hidden("policyDocument", document, 1, policy.MaxCharacters, form.PolicyText)
	if err := cmp.Or(invalid(v), checkInlineName(name)); err != nil {
		return err
	}
	if _, err := policy.ParseIdentityPolicy(document); err != nil {
		return failure(malformedPolicyDocument, "%v", err)
	}
	return nil
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

// GetPrincipalPolicy returns the document of an inline policy as it was given. (GetUserPolicy, GetRolePolicy, GetGroupPolicy)
func (c *Client) GetPrincipalPolicy(ctx context.Context, name PrincipalName, policyName string) (document string, err error) {
	in := name.input()
	in["policyName"] = policyName
	err = c.read(ctx, getInlinePolicy, name, in, checkInlineName(policyName), func(record keystore.Principal) error {
		at, found := findInline(record.Policies, policyName)
		if !found {
			return noSuchPolicy(name.Type, policyName)
		}
		document = record.Policies[at].Document
		return nil
	})
	return answered(document, err)
}

// ListPrincipalPolicies returns the names of the inline policies, in order. (ListUserPolicies, ListRolePolicies, ListGroupPolicies)
func (c *Client) ListPrincipalPolicies(ctx context.Context, name PrincipalName) (names []string, err error) {
	err = c.read(ctx, listInlinePolicies, name, name.input(), nil, func(record keystore.Principal) error {
		names = []string{}
		for _, inline := range record.Policies {
			names = append(names, inline.Name)
		}
		return nil
	})
	return answered(names, err)
}

// DeletePrincipalPolicy removes an inline policy, or answers NoSuchEntity. (DeleteUserPolicy, DeleteRolePolicy, DeleteGroupPolicy)
func (c *Client) DeletePrincipalPolicy(ctx context.Context, name PrincipalName, policyName string) error {
	in := name.input()
	in["policyName"] = policyName
	req := request{input: in, form: checkInlineName(policyName)}
	return c.change(ctx, deleteInlinePolicy, name, req, func(record *keystore.Principal) error {
		at, found := findInline(record.Policies, policyName)
		if !found {
			return noSuchPolicy(name.Type, policyName)
		}
		record.Policies = slices.Delete(slices.Clone(record.Policies), at, at+1)
		return nil
	})
}
