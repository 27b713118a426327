package form_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
)

func TestCheck(t *testing.T) {
	const pair = "Value null at 'xksProxyAuthenticationCredential."
	for name, c := range map[string]struct {
		in    any
		empty []string
		want  form.Violations
	}{
		"nothing wrong": {in: &kms.GenerateMacInput{Message: []byte("m"), KeyId: aws.String("k"), MacAlgorithm: "HMAC_SHA_256"}},
		"in the order of the model": {in: &kms.GenerateMacInput{}, want: form.Violations{
			"Value null at 'message' failed to satisfy constraint: Member must not be null",
			"Value null at 'keyId' failed to satisfy constraint: Member must not be null",
			"Value null at 'macAlgorithm' failed to satisfy constraint: Member must not be null",
		}},
		"an empty blob is there": {in: &kms.EncryptInput{KeyId: aws.String("k"), Plaintext: []byte{}}, want: form.Violations{
			"Value at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1",
		}},
		"an empty list is there": {in: &kms.TagResourceInput{KeyId: aws.String("k"), Tags: []types.Tag{}}},
		"an empty enumeration":   {in: &kms.CreateKeyInput{}},
		"one that the caller saw": {in: &kms.CreateKeyInput{}, empty: []string{"Origin"}, want: form.Violations{
			"Value '' at 'origin' failed to satisfy constraint: Member must satisfy enum value set: " +
				"[AWS_KMS, EXTERNAL, AWS_CLOUDHSM, EXTERNAL_KEY_STORE]",
		}},
		"one inside a structure": {in: &kms.GenerateRandomInput{Recipient: &types.RecipientInfo{}},
			empty: []string{"Recipient.KeyEncryptionAlgorithm"},
			want: form.Violations{"Value '' at 'recipient.keyEncryptionAlgorithm' failed to satisfy constraint: " +
				"Member must satisfy enum value set: [RSAES_OAEP_SHA_256]"}},
		"one of a list": {in: &kms.DecryptInput{DryRunModifiers: []types.DryRunModifierType{""}}, want: form.Violations{
			"Value '' at 'dryRunModifiers.1.member' failed to satisfy constraint: Member must satisfy enum value set: [IGNORE_CIPHERTEXT]",
		}},
		"members of a structure": {
			in: &kms.CreateCustomKeyStoreInput{
				CustomKeyStoreName: aws.String("s"), XksProxyAuthenticationCredential: &types.XksProxyAuthenticationCredentialType{}},
			want: form.Violations{pair + "accessKeyId' failed to satisfy constraint: Member must not be null",
				pair + "rawSecretAccessKey' failed to satisfy constraint: Member must not be null"},
		},
		"secrets are not shown": {in: &kms.UpdateCustomKeyStoreInput{CustomKeyStoreId: aws.String("s"), KeyStorePassword: aws.String("secret")},
			want: form.Violations{"Value at 'keyStorePassword' failed to satisfy constraint: Member must have length greater than or equal to 7"}},
		"lengths are of UTF-16": {in: &kms.UpdateKeyDescriptionInput{
			KeyId: aws.String(strings.Repeat("😀", 1024)), Description: aws.String(strings.Repeat("😀", 4096))}},
		"no UTF-8": {in: &kms.DescribeKeyInput{KeyId: aws.String("\xff")}, want: form.Violations{
			"Value at 'keyId' failed to satisfy constraint: Member must be valid UTF-8",
		}},
		"a pattern is of the whole text": {in: &kms.GetKeyPolicyInput{KeyId: aws.String("k"), PolicyName: aws.String("default\n")},
			want: form.Violations{
				"Value 'default\n' at 'policyName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\w]+",
			}},
		"and shown as the model has it": {in: &kms.ListKeysInput{Marker: aws.String("\u0100")}, want: form.Violations{
			"Value '\u0100' at 'marker' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\u0020-\\u00FF]*",
		}},
	} {
		t.Run(name, func(t *testing.T) { assert.Equal(t, c.want, form.Check(c.in, c.empty...)) })
	}
}

// However long a list of wrong elements is, the answer is not.
func TestViolationsAreBounded(t *testing.T) {
	v := form.Check(&kms.UntagResourceInput{KeyId: aws.String("k"), TagKeys: make([]string, 10_000)})
	assert.Len(t, v, 50)
	assert.ErrorContains(t, v.Err(), "ValidationException: 50 validation errors detected: Value '' at 'tagKeys.1.member' failed")
	require.NoError(t, form.Violations{}.Err())
}

// A type that the tables do not know must not pass for one without constraints.
func TestUnknownTypesPanic(t *testing.T) {
	assert.PanicsWithValue(t, "form: no model of form_test.StrangeInput", func() { form.Check(&StrangeInput{}) })
	_, ok := form.Members("Strange")
	assert.False(t, ok)
}

type StrangeInput struct{ KeyId *string }

func BenchmarkCheck(b *testing.B) {
	in := &kms.GenerateMacInput{Message: make([]byte, 64), KeyId: aws.String("1234abcd-12ab-34cd-56ef-1234567890ab"),
		MacAlgorithm: "HMAC_SHA_256"}
	b.ReportAllocs()
	for b.Loop() {
		if form.Check(in) != nil {
			b.Fatal("it is in order")
		}
	}
}

// What Check does for GenerateMac costs no memory.
func TestCheckAllocatesNothing(t *testing.T) {
	in := &kms.GenerateMacInput{Message: make([]byte, 64), KeyId: aws.String("k"), MacAlgorithm: "HMAC_SHA_256"}
	require.True(t, slices.Contains(in.MacAlgorithm.Values(), in.MacAlgorithm))
	assert.Zero(t, testing.AllocsPerRun(100, func() { form.Check(in) }))
}
