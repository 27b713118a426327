package server

import (
	"context"
	"errors"
	"maps"
	"reflect"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/awsjson"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
)

// handler decodes the body, notes what it is about, runs the operation and encodes its output.
type handler func(ctx context.Context, c *pkcs11kms.Client, body []byte, x *exchange) ([]byte, error)

// operations are what the server answers of AWS KMS. An operation is added by one line here and its method of Client.
var operations = map[string]handler{
	"CancelKeyDeletion":                   op((*pkcs11kms.Client).CancelKeyDeletion),
	"CreateAlias":                         op((*pkcs11kms.Client).CreateAlias),
	"CreateGrant":                         op((*pkcs11kms.Client).CreateGrant),
	"CreateKey":                           op((*pkcs11kms.Client).CreateKey),
	"Decapsulate":                         op((*pkcs11kms.Client).Decapsulate),
	"Decrypt":                             op((*pkcs11kms.Client).Decrypt),
	"DeleteAlias":                         op((*pkcs11kms.Client).DeleteAlias),
	"DeleteImportedKeyMaterial":           op((*pkcs11kms.Client).DeleteImportedKeyMaterial),
	"DeriveSharedSecret":                  op((*pkcs11kms.Client).DeriveSharedSecret),
	"DescribeKey":                         op((*pkcs11kms.Client).DescribeKey),
	"DisableKey":                          op((*pkcs11kms.Client).DisableKey),
	"DisableKeyRotation":                  op((*pkcs11kms.Client).DisableKeyRotation),
	"EnableKey":                           op((*pkcs11kms.Client).EnableKey),
	"EnableKeyRotation":                   op((*pkcs11kms.Client).EnableKeyRotation),
	"Encapsulate":                         op((*pkcs11kms.Client).Encapsulate),
	"Encrypt":                             op((*pkcs11kms.Client).Encrypt),
	"GenerateDataKey":                     op((*pkcs11kms.Client).GenerateDataKey),
	"GenerateDataKeyPair":                 op((*pkcs11kms.Client).GenerateDataKeyPair),
	"GenerateDataKeyPairWithoutPlaintext": op((*pkcs11kms.Client).GenerateDataKeyPairWithoutPlaintext),
	"GenerateDataKeyWithoutPlaintext":     op((*pkcs11kms.Client).GenerateDataKeyWithoutPlaintext),
	"GenerateMac":                         op((*pkcs11kms.Client).GenerateMac),
	"GenerateRandom":                      op((*pkcs11kms.Client).GenerateRandom),
	"GetKeyLastUsage":                     op((*pkcs11kms.Client).GetKeyLastUsage),
	"GetKeyPolicy":                        op((*pkcs11kms.Client).GetKeyPolicy),
	"GetKeyRotationStatus":                op((*pkcs11kms.Client).GetKeyRotationStatus),
	"GetParametersForImport":              op((*pkcs11kms.Client).GetParametersForImport),
	"GetPublicKey":                        op((*pkcs11kms.Client).GetPublicKey),
	"ImportKeyMaterial":                   op((*pkcs11kms.Client).ImportKeyMaterial),
	"ListAliases":                         op((*pkcs11kms.Client).ListAliases),
	"ListGrants":                          op((*pkcs11kms.Client).ListGrants),
	"ListKeyPolicies":                     op((*pkcs11kms.Client).ListKeyPolicies),
	"ListKeyRotations":                    op((*pkcs11kms.Client).ListKeyRotations),
	"ListKeys":                            op((*pkcs11kms.Client).ListKeys),
	"ListResourceTags":                    op((*pkcs11kms.Client).ListResourceTags),
	"ListRetirableGrants":                 op((*pkcs11kms.Client).ListRetirableGrants),
	"PutKeyPolicy":                        op((*pkcs11kms.Client).PutKeyPolicy),
	"ReEncrypt":                           op((*pkcs11kms.Client).ReEncrypt),
	"RetireGrant":                         op((*pkcs11kms.Client).RetireGrant),
	"RevokeGrant":                         op((*pkcs11kms.Client).RevokeGrant),
	"RotateKeyOnDemand":                   op((*pkcs11kms.Client).RotateKeyOnDemand),
	"ScheduleKeyDeletion":                 op((*pkcs11kms.Client).ScheduleKeyDeletion),
	"Sign":                                op((*pkcs11kms.Client).Sign),
	"TagResource":                         op((*pkcs11kms.Client).TagResource),
	"UntagResource":                       op((*pkcs11kms.Client).UntagResource),
	"UpdateAlias":                         op((*pkcs11kms.Client).UpdateAlias),
	"UpdateKeyDescription":                op((*pkcs11kms.Client).UpdateKeyDescription),
	"Verify":                              op((*pkcs11kms.Client).Verify),
	"VerifyMac":                           op((*pkcs11kms.Client).VerifyMac),
}

// refused are the other operations of the API model. They are known, so that a client learns that this service does not
// do them, and not that it asked wrongly.
var refused = map[string]handler{
	"ConnectCustomKeyStore":    refuse[kms.ConnectCustomKeyStoreInput],
	"CreateCustomKeyStore":     refuse[kms.CreateCustomKeyStoreInput],
	"DeleteCustomKeyStore":     refuse[kms.DeleteCustomKeyStoreInput],
	"DescribeCustomKeyStores":  refuse[kms.DescribeCustomKeyStoresInput],
	"DisconnectCustomKeyStore": refuse[kms.DisconnectCustomKeyStoreInput],
	"ReplicateKey":             refuse[kms.ReplicateKeyInput],
	"UpdateCustomKeyStore":     refuse[kms.UpdateCustomKeyStoreInput],
	"UpdatePrimaryRegion":      refuse[kms.UpdatePrimaryRegionInput],
}

func init() { maps.Copy(operations, refused) }

// refuse answers that the service does not do an operation, to those whose input is in order.
func refuse[In any](_ context.Context, _ *pkcs11kms.Client, body []byte, x *exchange) ([]byte, error) {
	in, err := decode[In](body)
	if in != nil {
		subjectOf(reflect.TypeFor[In]()).read(in, &x.about)
	}
	if err == nil {
		err = form.Check(in).Err()
	}
	if err == nil {
		err = errNotSupported
	}
	return nil, undo(in, err)
}

// undone is a refusal of a request that no operation of a Client has seen, so that the audit log has not heard of it either.
type undone struct {
	in  any // a pointer to the SDK's input; nil when it was not read
	err error
}

func (u *undone) Error() string { return u.err.Error() }

func (u *undone) Unwrap() error { return u.err }

func undo[In any](in *In, err error) error {
	if in == nil {
		return &undone{nil, err} // and no typed nil
	}
	return &undone{in, err}
}

// decode reads an input. What the SDK's struct cannot show, an enumeration's empty string, is refused here; the rest of the
// input is returned beside that refusal.
func decode[In any](body []byte) (*In, error) {
	in := new(In)
	err := awsjson.Decode(body, in)
	if empty, ok := errors.AsType[*awsjson.EmptyEnumError](err); ok && form.Knows(in) {
		if err := form.Check(in, empty.Members...).Err(); err != nil {
			return in, err
		}
	}
	if err != nil {
		return nil, serialization(err)
	}
	return in, nil
}

// op fits a method of Client to the wire. Options are those of the SDK's client of the service.
func op[In, Out, Options any](call func(*pkcs11kms.Client, context.Context, *In, ...func(*Options)) (*Out, error)) handler {
	silent := !hasMembers(reflect.TypeFor[Out]())
	names := subjectOf(reflect.TypeFor[In]())
	return func(ctx context.Context, c *pkcs11kms.Client, body []byte, x *exchange) ([]byte, error) {
		in, err := decode[In](body)
		if in != nil {
			names.read(in, &x.about)
		}
		if err != nil {
			return nil, undo(in, err)
		}
		out, err := call(c, ctx, in)
		x.about.made(out)
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
