package pkcs11kms

import (
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// Operation is what the table of operations says of one, in plain values: for documents, command lines and tests. Packages of
// this directory read internal/ops.
type Operation struct {
	Service      string // kms, iam, cloudtrail, or pkcs11kms for what AWS has no operation for
	Name         string // as in the API
	Action       string // what policies call it by, such as kms:GenerateMac
	TakesAlias   bool   // KeyId may be an alias name or alias ARN
	CrossAccount bool   // KeyId may be the ARN of a key of another account, or where TakesAlias of an alias
	IdentityOnly bool   // no key policy can allow it
	Writes       bool   // changes something
	ReadOnly     bool   // CloudTrail calls it read-only
	Refused      bool   // refused for every key that this service makes
	Unsupported  bool   // answered by UnsupportedOperationException without a look at a key
}

// Operations returns the operations of all services, ordered by service and subject. The server answers those of AWS KMS and AWS
// CloudTrail.
func Operations() (all []Operation) {
	for op := range ops.All {
		if op.Answer == ops.ActionOnly {
			continue
		}
		all = append(all, Operation{
			Service: op.Service, Name: op.Name, Action: op.ActionName(), TakesAlias: op.TakesAlias, CrossAccount: op.Across,
			IdentityOnly: op.IdentityOnly,
			Writes:       op.Writes, ReadOnly: op.Read, Refused: op.Answer == ops.Refused, Unsupported: op.Answer == ops.NotSupported,
		})
	}
	return all
}

// LintPolicy is policy.Lint with the actions of AWS KMS. Those of other services are not remarked on.
func LintPolicy(kind policy.Kind, text string) []policy.Finding {
	return policy.Lint(kind, text, policyActions)
}

// kmsService is how the table of operations calls AWS KMS.
const kmsService = "kms"

var policyActions = func() (all []policy.Action) {
	for op := range ops.All {
		if op.Service != kmsService {
			continue
		}
		all = append(all, policy.Action{Name: op.ActionName(), OnAlias: op.Subject == ops.Alias, ByAlias: op.TakesAlias,
			IdentityOnly: op.IdentityOnly, Conditions: op.Conditions})
	}
	return all
}()
