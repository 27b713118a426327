package iam

import (
	"fmt"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// The error codes of AWS IAM, which are others than those of AWS KMS for the same things.
const (
	noSuchEntity            = "NoSuchEntity"
	entityAlreadyExists     = "EntityAlreadyExists"
	deleteConflict          = "DeleteConflict"
	limitExceeded           = "LimitExceeded"
	malformedPolicyDocument = "MalformedPolicyDocument"
	invalidInput            = "InvalidInput"
	validationError         = "ValidationError"
	accessDenied            = "AccessDenied"
	invalidParameterValue   = "InvalidParameterValue"
	packedPolicyTooLarge    = "PackedPolicyTooLarge"
)

func failure(code, format string, args ...any) error {
	return &smithy.GenericAPIError{Code: code, Message: fmt.Sprintf(format, args...), Fault: smithy.FaultClient}
}

// invalid is the answer to an input of which the form is wrong, or nil.
func invalid(v form.Violations) error {
	if len(v) == 0 {
		return nil
	}
	return failure(validationError, "%s", v)
}

// denied is the answer to a caller who may not. That a policy denies explicitly is told only to those whom others allow.
func denied(caller Caller, op *ops.Operation, resource string, d policy.Decision) error {
	if op.Service == ops.AssumeRole.Service { // whose answer is the same whatever stands in the way
		return failure(accessDenied, "%s", strings.TrimSpace(apierr.Denial(caller.arn, op.ActionName(), resource, "")))
	}
	because := "because no identity-based policy allows the " + op.ActionName() + " action"
	if d.Reason == policy.DeniedByIdentityPolicy && d.ByIdentity {
		because = "with an explicit deny in an identity-based policy"
	}
	if d.Reason == policy.NoSessionAllow {
		because = "because no session policy allows the " + op.ActionName() + " action"
	}
	if d.Reason == policy.DeniedBySessionPolicy && d.ByIdentity {
		because = "with an explicit deny in a session policy"
	}
	return failure(accessDenied, "%s", apierr.Denial(caller.arn, op.ActionName(), resource, because))
}

func noSuchPrincipal(name PrincipalName) error {
	return failure(noSuchEntity, "The %s with name %s cannot be found.", name.Type, name.Name)
}

func noSuchPolicy(t keystore.PrincipalType, policyName string) error {
	return failure(noSuchEntity, "The %s policy with name %s cannot be found.", t, policyName)
}

func noSuchAccessKey(id string) error {
	return failure(noSuchEntity, "The Access Key with id %s cannot be found.", id)
}

// quotaExceeded names a quota as AWS IAM does, such as UsersPerAccount.
func quotaExceeded(quota string, limit int) error {
	return failure(limitExceeded, "Cannot exceed quota for %s: %d", quota, limit)
}

// invalidMember is the answer for a name with a character that it may not have.
func invalidMember(member string) error {
	return failure(validationError, "The specified value for %s is invalid. "+
		"It must contain only alphanumeric characters and/or the following: +=,.@_-", member)
}

func invalidPath(member string) error {
	return failure(validationError, "The specified value for %s is invalid. "+
		"It must begin and end with / and contain only alphanumeric characters and/or / characters.", member)
}
