package iam

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// A role's trust policy is kept with the unique ids of the users, roles and sessions that it names, as key policies are: a namesake that is
// made later is not trusted. What programs before have kept in its place was any JSON, which nobody had to mean: it is shown, and counts
// for nothing until somebody sets it again.

const maxTrustBytes = 2048 // blanks not counted

// UpdateTrustPolicy gives a role another trust policy: who may assume it. Sessions that there are stay. (UpdateAssumeRolePolicy)
func (c *Client) UpdateTrustPolicy(ctx context.Context, roleName, document string) error {
	var v form.Violations
	checkTrustText(&v, "policyDocument", document)
	wrong := invalid(v)
	if wrong == nil {
		wrong = checkTrustPolicy(document)
	}
	name := PrincipalName{keystore.PrincipalRole, roleName}
	in := name.input()
	in["policyDocument"] = document
	op := byType{role: ops.UpdateAssumeRolePolicy}
	return c.change(ctx, op, name, request{input: in, form: cmp.Or(name.check(), wrong)}, func(record *keystore.Principal) (err error) {
		record.Trust = ""
		record.TrustPolicy, err = c.dir.boundTrust(ctx, record.Account, document)
		return err
	})
}

func checkTrustText(v *form.Violations, member, document string) {
	v.Hidden(member, document, 1, policy.MaxCharacters, form.PolicyText)
}

// checkTrustPolicy checks what needs nothing but the text.
func checkTrustPolicy(text string) error {
	switch {
	case text == "":
		return nil
	case policyLength(text) > maxTrustBytes:
		return quotaExceeded("ACLSizePerRole", maxTrustBytes)
	case !isObject(text):
		return failure(malformedPolicyDocument, "This policy contains invalid Json")
	}
	_, err := policy.ParseTrustPolicy(text)
	return refusedTrust(err)
}

func isObject(text string) bool {
	var object map[string]json.RawMessage
	return json.Unmarshal([]byte(text), &object) == nil && object != nil
}

// refusedTrust is the answer to a document that cannot be a trust policy: in the words of AWS IAM where they are known.
func refusedTrust(err error) error {
	refused, ok := errors.AsType[*policy.SyntaxError](err)
	switch {
	case err == nil:
		return nil
	case ok && refused.InvalidPrincipal:
		return failure(malformedPolicyDocument, "Invalid principal in policy: %s", refused.Principal)
	case ok && (strings.HasPrefix(refused.Reason, "AssumeRole policy") || strings.HasPrefix(refused.Reason, "Has prohibited field")):
		return failure(malformedPolicyDocument, "%s", refused.Reason)
	}
	return failure(malformedPolicyDocument, "%v", err)
}

// boundTrust puts the unique ids of the users, roles and sessions that the trust policy of a role of an account names in the place of their
// ARNs, with the account before those that are not of the role's. All of them must be there; accounts are taken as such.
func (d *Directory) boundTrust(ctx context.Context, account, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	document, err := policy.ParseTrustPolicy(text)
	if err != nil {
		return "", refusedTrust(err)
	}
	ids, unknown, err := d.PrincipalIDs(ctx, account, document)
	if err != nil {
		return "", err
	}
	if len(unknown) > 0 {
		return "", refusedTrust(unknown[0])
	}
	return document.MapPrincipals(func(name string) string { return cmp.Or(ids[name], name) }), nil
}

// PrincipalIDs returns what a policy of something of an account keeps of the users, roles and sessions that it names, see policy.SplitID,
// and the refusals of those that there are not, in the order of the document.
func (d *Directory) PrincipalIDs(ctx context.Context, account string, given *policy.Document) (
	ids map[string]string, unknown []*policy.SyntaxError, err error,
) {
	ids = map[string]string{}
	for _, name := range given.Principals() {
		if d.isEverybodyOf(name) {
			continue
		}
		id, ok, err := d.principalID(ctx, account, name)
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			unknown = append(unknown, given.PrincipalError(name, "no user or role has it"))
			continue
		}
		ids[name] = id
	}
	return ids, unknown, nil
}

// isEverybodyOf tells whether a principal is an account, by its number or the ARN of its root, or everybody.
func (d *Directory) isEverybodyOf(name string) bool {
	_, isRoot := d.RootAccount(name)
	return name == "*" || isRoot || keystore.IsAccountID(name)
}

// principalID returns what a policy of something of an account keeps of a user, role or session, given its ARN or just that.
func (d *Directory) principalID(ctx context.Context, account, name string) (id string, ok bool, err error) {
	if strings.HasPrefix(name, "arn:") {
		id, ok, err = d.ARNToID(ctx, name)
		if of := AccountOfARN(name); ok && of != account {
			id = keystore.OwnerValue(of, id)
		}
		return id, ok, err
	}
	of, id := policy.SplitID(name, account)
	_, ok, err = d.IDToARN(ctx, of, id)
	return name, ok, err
}

// AccountOfARN is the account in an ARN, or empty.
func AccountOfARN(arn string) string {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) < 6 {
		return ""
	}
	return parts[4]
}

// ShownPolicy is the text of a policy of something of an account as those see it who ask for it: with ARNs, and the unique ids of what is
// gone.
func (d *Directory) ShownPolicy(ctx context.Context, account string, document *policy.Document) (string, error) {
	names := map[string]string{}
	for _, id := range document.Principals() {
		of, bare := policy.SplitID(id, account)
		arn, ok, err := d.IDToARN(ctx, of, bare)
		if err != nil {
			return "", err
		}
		if names[id] = bare; ok {
			names[id] = arn
		}
	}
	return document.MapPrincipals(func(id string) string { return cmp.Or(names[id], id) }), nil
}

// shownTrust is the text of a role's trust policy for those who ask for it.
func (d *Directory) shownTrust(ctx context.Context, role keystore.Principal) (string, error) {
	if role.TrustPolicy == "" {
		return role.Trust, nil
	}
	document, err := policy.ParseTrustPolicy(role.TrustPolicy)
	if err != nil {
		return "", err
	}
	return d.ShownPolicy(ctx, role.Account, document)
}
