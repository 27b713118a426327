package server

import (
	"context"
	"reflect"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/awsjson"
)

// handler decodes the body, runs the operation and encodes its output.
type handler func(ctx context.Context, c *pkcs11kms.Client, body []byte) ([]byte, error)

// operations are what the server answers. An operation is added by one line here and its method of Client.
var operations = map[string]handler{
	"CreateKey":   op((*pkcs11kms.Client).CreateKey),
	"DescribeKey": op((*pkcs11kms.Client).DescribeKey),
	"DisableKey":  op((*pkcs11kms.Client).DisableKey),
	"EnableKey":   op((*pkcs11kms.Client).EnableKey),
	"GenerateMac": op((*pkcs11kms.Client).GenerateMac),
	"ListKeys":    op((*pkcs11kms.Client).ListKeys),
	"VerifyMac":   op((*pkcs11kms.Client).VerifyMac),
}

// refused are the other operations of the API model. They are known, so that a client learns that this service does not
// do them, and not that it asked wrongly.
var refused = []string{
	"CancelKeyDeletion", "ConnectCustomKeyStore", "CreateAlias", "CreateCustomKeyStore", "CreateGrant", "Decapsulate", "Decrypt",
	"DeleteAlias", "DeleteCustomKeyStore", "DeleteImportedKeyMaterial", "DeriveSharedSecret", "DescribeCustomKeyStores",
	"DisableKeyRotation", "DisconnectCustomKeyStore", "EnableKeyRotation", "Encapsulate", "Encrypt", "GenerateDataKey",
	"GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext", "GenerateDataKeyWithoutPlaintext", "GenerateRandom",
	"GetKeyLastUsage", "GetKeyPolicy", "GetKeyRotationStatus", "GetParametersForImport", "GetPublicKey", "ImportKeyMaterial",
	"ListAliases", "ListGrants", "ListKeyPolicies", "ListKeyRotations", "ListResourceTags", "ListRetirableGrants", "PutKeyPolicy",
	"ReEncrypt", "ReplicateKey", "RetireGrant", "RevokeGrant", "RotateKeyOnDemand", "ScheduleKeyDeletion", "Sign", "TagResource",
	"UntagResource", "UpdateAlias", "UpdateCustomKeyStore", "UpdateKeyDescription", "UpdatePrimaryRegion", "Verify",
}

func init() {
	for _, name := range refused {
		operations[name] = refuse
	}
}

func refuse(context.Context, *pkcs11kms.Client, []byte) ([]byte, error) { return nil, errNotSupported }

// op fits a method of Client to the wire.
func op[In, Out any](call func(*pkcs11kms.Client, context.Context, *In, ...func(*kms.Options)) (*Out, error)) handler {
	silent := !hasMembers(reflect.TypeFor[Out]())
	return func(ctx context.Context, c *pkcs11kms.Client, body []byte) ([]byte, error) {
		var in In
		if err := awsjson.Decode(body, &in); err != nil {
			return nil, serialization(err)
		}
		out, err := call(c, ctx, &in)
		if err != nil || silent {
			return nil, err // operations without an output answer with an empty body
		}
		return awsjson.Encode(out)
	}
}

func hasMembers(output reflect.Type) bool {
	for _, field := range reflect.VisibleFields(output) {
		if field.IsExported() && field.Name != "ResultMetadata" {
			return true
		}
	}
	return false
}
