package iam

import (
	"cmp"
	"context"
	"encoding/json"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

const maxTrustBytes = 2048 // blanks not counted

// UpdateTrustPolicy gives a role another assume-role policy document. It is kept and shown and has no effect, see PrincipalOptions.
// (UpdateAssumeRolePolicy)
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
	op := byType{ops.UpdateAssumeRolePolicy, ops.UpdateAssumeRolePolicy}
	return c.change(ctx, op, name, request{input: in, form: cmp.Or(name.check(), wrong)}, func(record *keystore.Principal) error {
		record.Trust = document
		return nil
	})
}

func checkTrustText(v *form.Violations, member, document string) {
	v.Hidden(member, document, 1, policy.MaxCharacters, form.PolicyText)
}

// checkTrustPolicy asks for a JSON object and no more: what it says has no effect here.
func checkTrustPolicy(text string) error {
	var object map[string]json.RawMessage
	switch {
	case text == "":
		return nil
	case policyLength(text) > maxTrustBytes:
		return quotaExceeded("ACLSizePerRole", maxTrustBytes)
	case json.Unmarshal([]byte(text), &object) != nil || object == nil:
		return failure(malformedPolicyDocument, "This policy contains invalid Json")
	}
	return nil
}
