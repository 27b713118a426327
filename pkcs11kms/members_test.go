package pkcs11kms

import (
	"maps"
	"reflect"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

//lint:file-ignore SA1019 deprecated members are part of the API

// Every member of every implemented input is honoured or refused, never ignored: for each there is a function that
// shows which.
func TestEveryMemberIsHonouredOrRefused(t *testing.T) {
	r := newMemberRig(t)
	members := map[string]map[string]func(*testing.T){
		"CreateKey":   r.createKey(),
		"DescribeKey": r.describeKey(),
		"DisableKey":  r.disableKey(),
		"EnableKey":   r.enableKey(),
		"GenerateMac": r.generateMac(),
		"ListKeys":    r.listKeys(),
		"VerifyMac":   r.verifyMac(),

		"GetPublicKey": r.getPublicKey(),
		"Sign":         r.sign(),
		"Verify":       r.verify(),
	}
	maps.Copy(members, r.life())
	maps.Copy(members, r.grants())
	maps.Copy(members, r.imports())
	surface := reflect.TypeFor[api]()
	for i := range surface.NumMethod() {
		op := surface.Method(i)
		input := op.Type.In(1).Elem()
		for _, field := range reflect.VisibleFields(input) {
			if !field.IsExported() {
				continue
			}
			if refusedWhole[op.Name] {
				continue
			}
			show := members[op.Name][field.Name]
			if assert.NotNil(t, show, "%s.%s is not shown to be honoured or refused", op.Name, field.Name) {
				t.Run(op.Name+"/"+field.Name, show)
			}
			delete(members[op.Name], field.Name)
		}
		assert.Empty(t, members[op.Name], "members that %s does not have", op.Name)
	}
}

// refusedWhole are the operations that no member can make succeed; TestOperationsForOtherKinds shows it.
var refusedWhole = func() map[string]bool {
	all := map[string]bool{}
	for op := range refusals(types.KeyUsageTypeGenerateVerifyMac, "") {
		_, both := refusals(types.KeyUsageTypeSignVerify, "")[op]
		all[op] = both && rowOf(op).Origin != ops.ExternalOnly // which other keys can have
	}
	return all
}()

// lockoutPolicy leaves the key to another account.
const lockoutPolicy = `{"Statement":[{"Effect":"Allow","Principal":{"AWS":"444455556666"},"Action":"kms:*","Resource":"*"}]}`

// memberRig is two keys and the MAC of a message by the first, and the same for signing.
type memberRig struct {
	c          *Client
	key, other *types.KeyMetadata
	message    []byte
	mac        []byte

	signing, otherSigning *types.KeyMetadata
	signature             []byte
}

func newMemberRig(t *testing.T) *memberRig {
	r := &memberRig{c: newClient(t), message: []byte("m")}
	r.key, r.other = mustCreate(t, r.c, types.KeySpecHmac256), mustCreate(t, r.c, types.KeySpecHmac256)
	var err error
	r.mac, err = generate(t.Context(), r.c, r.key.KeyId, r.message)
	require.NoError(t, err)
	r.signing, r.otherSigning = mustCreate(t, r.c, types.KeySpecRsa2048), mustCreate(t, r.c, types.KeySpecRsa2048)
	r.signature = mustSign(t, r.c, r.signing, types.SigningAlgorithmSpecRsassaPkcs1V15Sha256, r.message)
	return r
}

// fails shows that a call ends with an error of type E.
func fails[E error](call func(*testing.T) error) func(*testing.T) {
	return func(t *testing.T) {
		var want E
		require.ErrorAs(t, call(t), &want)
	}
}

func (r *memberRig) createKey() map[string]func(*testing.T) {
	create := func(t *testing.T, change func(*kms.CreateKeyInput)) (*kms.CreateKeyOutput, error) {
		in := &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac}
		change(in)
		return r.c.CreateKey(t.Context(), in)
	}
	refused := func(change func(*kms.CreateKeyInput)) func(*testing.T) {
		return fails[*types.UnsupportedOperationException](func(t *testing.T) error { _, err := create(t, change); return err })
	}
	return map[string]func(*testing.T){
		"BypassPolicyLockoutSafetyCheck": func(t *testing.T) {
			lockout := func(in *kms.CreateKeyInput) { in.Policy = ptr(lockoutPolicy) }
			_, err := create(t, lockout)
			requireAPIError(t, err, "MalformedPolicyDocumentException", lockoutText)
			_, err = create(t, func(in *kms.CreateKeyInput) { lockout(in); in.BypassPolicyLockoutSafetyCheck = true })
			require.NoError(t, err)
		},
		"CustomKeyStoreId": refused(func(in *kms.CreateKeyInput) { in.CustomKeyStoreId = ptr("cks-1") }),
		"CustomerMasterKeySpec": func(t *testing.T) {
			out, err := create(t, func(in *kms.CreateKeyInput) {
				in.KeySpec, in.CustomerMasterKeySpec = "", types.CustomerMasterKeySpecHmac512
			})
			require.NoError(t, err)
			require.Equal(t, types.KeySpecHmac512, out.KeyMetadata.KeySpec)
		},
		"Description": func(t *testing.T) {
			const text = "for <tokens> & \u00e4"
			out, err := create(t, func(in *kms.CreateKeyInput) { in.Description = ptr(text) })
			require.NoError(t, err)
			described, err := r.c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: out.KeyMetadata.KeyId})
			require.NoError(t, err)
			require.Equal(t, text, *described.KeyMetadata.Description)
		},
		"KeySpec": refused(func(in *kms.CreateKeyInput) {
			in.KeySpec, in.KeyUsage = types.KeySpecSm2, types.KeyUsageTypeSignVerify
		}),
		"KeyUsage": func(t *testing.T) {
			_, err := create(t, func(in *kms.CreateKeyInput) { in.KeyUsage = types.KeyUsageTypeEncryptDecrypt })
			requireAPIError(t, err, "ValidationException", "KeyUsage ENCRYPT_DECRYPT is not compatible with KeySpec HMAC_256")
		},
		"MultiRegion": refused(func(in *kms.CreateKeyInput) { in.MultiRegion = aws.Bool(true) }),
		"Origin":      refused(func(in *kms.CreateKeyInput) { in.Origin = types.OriginTypeAwsCloudhsm }),
		"Policy": func(t *testing.T) {
			out, err := create(t, func(in *kms.CreateKeyInput) { in.Policy = ptr(keyPolicy()) })
			require.NoError(t, err)
			require.Equal(t, keyPolicy(), policyOf(t, r.c, out.KeyMetadata.KeyId))
		},
		"Tags": func(t *testing.T) {
			out, err := create(t, func(in *kms.CreateKeyInput) { in.Tags = []types.Tag{{TagKey: ptr("k"), TagValue: ptr("v")}} })
			require.NoError(t, err)
			require.Equal(t, []string{"k=v"}, tagsOf(t, r.c, out.KeyMetadata.KeyId))
		},
		"XksKeyId": refused(func(in *kms.CreateKeyInput) { in.XksKeyId = ptr("xks") }),
	}
}

func (r *memberRig) describeKey() map[string]func(*testing.T) {
	return map[string]func(*testing.T){
		"KeyId": func(t *testing.T) {
			out, err := r.c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: r.other.KeyId})
			require.NoError(t, err)
			require.Equal(t, r.other.KeyId, out.KeyMetadata.KeyId)
		},
		"GrantTokens": fails[*types.InvalidGrantTokenException](func(t *testing.T) error {
			_, err := r.c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: r.key.KeyId, GrantTokens: []string{"token"}})
			return err
		}),
	}
}

func (r *memberRig) disableKey() map[string]func(*testing.T) {
	return map[string]func(*testing.T){
		"KeyId": fails[*types.DisabledException](func(t *testing.T) error {
			require.NoError(t, toggle(t.Context(), r.c, r.other.KeyId, false))
			_, err := generate(t.Context(), r.c, r.other.KeyId, r.message)
			return err
		}),
	}
}

func (r *memberRig) enableKey() map[string]func(*testing.T) {
	return map[string]func(*testing.T){
		"KeyId": func(t *testing.T) {
			require.NoError(t, toggle(t.Context(), r.c, r.other.KeyId, true))
			_, err := generate(t.Context(), r.c, r.other.KeyId, r.message)
			require.NoError(t, err)
			err = toggle(t.Context(), r.c, ptr(unknownID), true)
			requireAPIError(t, err, "NotFoundException", "Key '"+arnOf(unknownID)+"' does not exist")
		},
	}
}

func (r *memberRig) generateMac() map[string]func(*testing.T) {
	ask := func(change func(*kms.GenerateMacInput)) func(*testing.T) error {
		return func(t *testing.T) error {
			in := &kms.GenerateMacInput{KeyId: r.key.KeyId, Message: r.message, MacAlgorithm: types.MacAlgorithmSpecHmacSha256}
			change(in)
			out, err := r.c.GenerateMac(t.Context(), in)
			if err == nil {
				require.NotEqual(t, r.mac, out.Mac, "the member was ignored")
			}
			return err
		}
	}
	return map[string]func(*testing.T){
		"KeyId": fails[*types.NotFoundException](ask(func(in *kms.GenerateMacInput) { in.KeyId = ptr(unknownID) })),
		"Message": func(t *testing.T) {
			require.NoError(t, ask(func(in *kms.GenerateMacInput) { in.Message = []byte("n") })(t))
		},
		"MacAlgorithm": fails[*types.InvalidKeyUsageException](ask(func(in *kms.GenerateMacInput) {
			in.MacAlgorithm = types.MacAlgorithmSpecHmacSha512
		})),
		"DryRun":      fails[*types.DryRunOperationException](ask(func(in *kms.GenerateMacInput) { in.DryRun = aws.Bool(true) })),
		"GrantTokens": fails[*types.InvalidGrantTokenException](ask(func(in *kms.GenerateMacInput) { in.GrantTokens = []string{"token"} })),
	}
}

func (r *memberRig) listKeys() map[string]func(*testing.T) {
	return map[string]func(*testing.T){
		"Limit": func(t *testing.T) {
			out, err := r.c.ListKeys(t.Context(), &kms.ListKeysInput{Limit: aws.Int32(1)})
			require.NoError(t, err)
			require.Len(t, out.Keys, 1)
			require.True(t, out.Truncated)
		},
		"Marker": fails[*types.InvalidMarkerException](func(t *testing.T) error {
			_, err := r.c.ListKeys(t.Context(), &kms.ListKeysInput{Marker: ptr("nonsense")})
			return err
		}),
	}
}

func (r *memberRig) verifyMac() map[string]func(*testing.T) {
	ask := func(change func(*kms.VerifyMacInput)) func(*testing.T) error {
		return func(t *testing.T) error {
			in := &kms.VerifyMacInput{KeyId: r.key.KeyId, Message: r.message, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Mac: r.mac}
			change(in)
			_, err := r.c.VerifyMac(t.Context(), in)
			return err
		}
	}
	return map[string]func(*testing.T){
		"KeyId":   fails[*types.KMSInvalidMacException](ask(func(in *kms.VerifyMacInput) { in.KeyId = r.other.KeyId })),
		"Mac":     fails[*types.KMSInvalidMacException](ask(func(in *kms.VerifyMacInput) { in.Mac = make([]byte, 32) })),
		"Message": fails[*types.KMSInvalidMacException](ask(func(in *kms.VerifyMacInput) { in.Message = []byte("n") })),
		"MacAlgorithm": fails[*types.InvalidKeyUsageException](ask(func(in *kms.VerifyMacInput) {
			in.MacAlgorithm = types.MacAlgorithmSpecHmacSha384
		})),
		"DryRun":      fails[*types.DryRunOperationException](ask(func(in *kms.VerifyMacInput) { in.DryRun = aws.Bool(true) })),
		"GrantTokens": fails[*types.InvalidGrantTokenException](ask(func(in *kms.VerifyMacInput) { in.GrantTokens = []string{"token"} })),
	}
}
