package pkcs11kms

import (
	"fmt"

	"github.com/aws/smithy-go"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
)

// The error codes of AWS IAM, which are others than those of AWS KMS for the same things.
const (
	noSuchEntity            = "NoSuchEntity"
	entityAlreadyExists     = "EntityAlreadyExists"
	deleteConflict          = "DeleteConflict"
	iamLimitExceeded        = "LimitExceeded"
	malformedPolicyDocument = "MalformedPolicyDocument"
	iamInvalidInput         = "InvalidInput"
	iamValidation           = "ValidationError"
)

func iamError(code, format string, args ...any) error {
	return &smithy.GenericAPIError{Code: code, Message: fmt.Sprintf(format, args...), Fault: smithy.FaultClient}
}

// iamInvalid is the answer to an input of which the form is wrong, or nil.
func iamInvalid(v form.Violations) error {
	if len(v) == 0 {
		return nil
	}
	return iamError(iamValidation, "%s", v)
}

func noSuchPrincipal(name PrincipalName) error {
	return iamError(noSuchEntity, "The %s with name %s cannot be found.", name.Type, name.Name)
}

func noSuchPolicy(t keystore.PrincipalType, policyName string) error {
	return iamError(noSuchEntity, "The %s policy with name %s cannot be found.", t, policyName)
}

func noSuchAccessKey(id string) error {
	return iamError(noSuchEntity, "The Access Key with id %s cannot be found.", id)
}

// quotaExceeded names a quota as AWS IAM does, such as UsersPerAccount.
func quotaExceeded(quota string, limit int) error {
	return iamError(iamLimitExceeded, "Cannot exceed quota for %s: %d", quota, limit)
}

// invalidMember is the answer for a name with a character that it may not have.
func invalidMember(member string) error {
	return iamError(iamValidation, "The specified value for %s is invalid. "+
		"It must contain only alphanumeric characters and/or the following: +=,.@_-", member)
}

func invalidPath(member string) error {
	return iamError(iamValidation, "The specified value for %s is invalid. "+
		"It must begin and end with / and contain only alphanumeric characters and/or / characters.", member)
}
