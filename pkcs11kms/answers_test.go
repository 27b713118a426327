package pkcs11kms

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

//lint:file-ignore SA1019 deprecated members are part of the API

// The texts are those of the real service, see the API reference and recorded answers: byte for byte.

func arnOf(id string) string { return "arn:aws:kms:us-west-2:111122223333:key/" + id }

func TestCreateKeyMetadata(t *testing.T) {
	cfg := newConfig(t)
	cfg.Now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6_789_000, time.UTC) }
	c := openClient(t, cfg)
	for _, spec := range keyring.MACSpecs {
		out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec.Name, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
		require.NoError(t, err)
		m := out.KeyMetadata
		require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, *m.KeyId)
		want := &types.KeyMetadata{
			AWSAccountId: ptr(testAccount), KeyId: m.KeyId, Arn: ptr(arnOf(*m.KeyId)),
			CreationDate: aws.Time(time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)),
			Enabled:      true, Description: ptr(""), KeyUsage: types.KeyUsageTypeGenerateVerifyMac,
			KeyState: types.KeyStateEnabled, Origin: types.OriginTypeAwsKms, KeyManager: types.KeyManagerTypeCustomer,
			CustomerMasterKeySpec: types.CustomerMasterKeySpec(spec.Name), KeySpec: spec.Name,
			MacAlgorithms: []types.MacAlgorithmSpec{spec.Algorithm}, MultiRegion: aws.Bool(false),
		}
		require.Equal(t, want, m)
		described, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: m.Arn})
		require.NoError(t, err)
		require.Equal(t, want, described.KeyMetadata)
	}
}

func TestCreateKeyRefusals(t *testing.T) {
	c := newClient(t)
	mac := types.KeyUsageTypeGenerateVerifyMac
	cases := []struct {
		name          string
		in            kms.CreateKeyInput
		code, message string // a message with * is a pattern
	}{
		{"no usage", kms.CreateKeyInput{KeySpec: "HMAC_256"}, "ValidationException",
			"You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."},
		{"wrong usage", kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "ENCRYPT_DECRYPT"}, "ValidationException",
			"KeyUsage ENCRYPT_DECRYPT is not compatible with KeySpec HMAC_256"},
		{"wrong usage of another spec", kms.CreateKeyInput{KeySpec: "RSA_2048", KeyUsage: "KEY_AGREEMENT"}, "ValidationException",
			"KeyUsage KEY_AGREEMENT is not compatible with KeySpec RSA_2048"},
		{"unknown spec", kms.CreateKeyInput{KeySpec: "HMAC_random", KeyUsage: mac}, "ValidationException",
			"1 validation error detected: Value 'HMAC_random' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [*]"},
		{"two problems", kms.CreateKeyInput{KeySpec: "A", KeyUsage: "B"}, "ValidationException",
			"2 validation errors detected: Value 'B' at 'keyUsage' failed to satisfy constraint: Member must satisfy enum value set: [*]; " +
				"Value 'A' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [*]"},
		{"both spec members", kms.CreateKeyInput{KeySpec: "HMAC_256", CustomerMasterKeySpec: "HMAC_256", KeyUsage: mac}, "ValidationException",
			"You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated."},
		{"nothing at all", kms.CreateKeyInput{}, "UnsupportedOperationException",
			"KeySpec SYMMETRIC_DEFAULT is not supported. Use one of HMAC_224, *, ECC_NIST_P521, " + secg + "ECC_NIST_EDWARDS25519."},
		{"multi-Region", kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: mac, MultiRegion: aws.Bool(true)}, "UnsupportedOperationException",
			"Multi-Region keys are not supported."},
		{"external key store", kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: mac, Origin: "EXTERNAL_KEY_STORE"},
			"UnsupportedOperationException", "Origin EXTERNAL_KEY_STORE is not supported."},
		{"external pair", kms.CreateKeyInput{KeySpec: "RSA_2048", KeyUsage: "SIGN_VERIFY", Origin: "EXTERNAL"},
			"UnsupportedOperationException", "Origin EXTERNAL is not supported for KeySpec RSA_2048."},
		{"unknown origin", kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: mac, Origin: "MOON"}, "ValidationException",
			"1 validation error detected: Value 'MOON' at 'origin' failed to satisfy constraint: Member must satisfy enum value set: [*]"},
		{"policy that says nothing",
			kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: mac, Policy: ptr(`{"Version":"2012-10-17","Statement":[]}`)},
			"MalformedPolicyDocumentException", "*no Statement*"},
		{"policy is no JSON", kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: mac, Policy: ptr("{")},
			"MalformedPolicyDocumentException", "*not valid JSON*"},
		{"policy over the quota", kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: mac, Policy: ptr(strings.Repeat(" ", 32769))},
			"LimitExceededException", "The policy document exceeds the maximum length of 32768 bytes."},
		{"policy with a strange character", kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: mac, Policy: ptr("\u20ac")},
			"ValidationException",
			"1 validation error detected: Value at 'policy' failed to satisfy constraint: Member must satisfy regular expression pattern: *"},
		{"description too long", kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: mac, Description: ptr(strings.Repeat("d", 8193))},
			"ValidationException", "1 validation error detected: Value '" + strings.Repeat("d", 8193) +
				"' at 'description' failed to satisfy constraint: Member must have length less than or equal to 8192"},
		{"description is no UTF-8", kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: mac, Description: ptr("\xff")},
			"ValidationException", "1 validation error detected: Value at 'description' failed to satisfy constraint: Member must be valid UTF-8"},
		{"tag value too long",
			kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: mac, Tags: []types.Tag{{TagKey: ptr("k"), TagValue: ptr(strings.Repeat("v", 257))}}},
			"ValidationException", "1 validation error detected: Value '" + strings.Repeat("v", 257) +
				"' at 'tags.1.member.tagValue' failed to satisfy constraint: Member must have length less than or equal to 256"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, err := c.CreateKey(t.Context(), &tc.in)
			requireAPIErrorLike(t, err, tc.code, tc.message)
		})
	}
	out, err := c.ListKeys(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, out.Keys, "a refused CreateKey must leave nothing")
	require.Empty(t, objectsOf(t, c.region.Token))
}

// requireAPIErrorLike is requireAPIError for a message in which * stands for anything.
func requireAPIErrorLike(t *testing.T, err error, code, pattern string) {
	t.Helper()
	requireCode(t, err, code)
	text := strings.ReplaceAll(regexp.QuoteMeta(code+": "+pattern), `\*`, ".*")
	require.Regexp(t, `^(api error )?`+text+`$`, err.Error())
}

func TestCreateKeyWithTheDefaultPolicy(t *testing.T) {
	c := newClient(t)
	compact := `{"Statement":[{"Resource":"*","Action":"kms:*","Principal":{"AWS":"arn:aws:iam::111122223333:root"},` +
		`"Effect":"Allow","Sid":"Enable IAM User Permissions"}],"Id":"key-default-1","Version":"2012-10-17"}`
	for _, policy := range []string{defaultPolicyOf(c.caller), compact} {
		_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC", Policy: &policy})
		require.NoError(t, err)
	}
	// encoding/json would keep the last of two members; a reader of the policy might keep the first.
	twice := strings.Replace(compact, `"Effect":"Allow"`, `"Effect":"Deny","Effect":"Allow"`, 1)
	_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC", Policy: &twice})
	requireAPIErrorLike(t, err, "MalformedPolicyDocumentException", `*member "Effect" twice in one object*`)
}

// Answers of the two MAC operations, which differ in nothing but their name.
func TestMacRefusals(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	off := mustCreate(t, c, types.KeySpecHmac256)
	_, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: off.KeyId})
	require.NoError(t, err)
	signing := putForeignKey(t, c)
	good := "HMAC_SHA_256"
	msg := []byte("message")
	const one = "1 validation error detected: "
	cases := []struct {
		name          string
		keyID         string
		algorithm     string
		message       []byte
		code, answer  string
		onlyGenerated bool
	}{
		{"empty message", *key.KeyId, good, []byte{}, "ValidationException",
			one + "Value at 'message' failed to satisfy constraint: Member must have length greater than or equal to 1", false},
		{"no message", *key.KeyId, good, nil, "ValidationException",
			one + "Value null at 'message' failed to satisfy constraint: Member must not be null", false},
		{"4,097 bytes", *key.KeyId, good, make([]byte, 4097), "ValidationException",
			one + "Value at 'message' failed to satisfy constraint: Member must have length less than or equal to 4096", false},
		{"unknown algorithm", *key.KeyId, "HMAC_SHA_1", msg, "ValidationException",
			one + "Value 'HMAC_SHA_1' at 'macAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [*]", false},
		{"no algorithm", *key.KeyId, "", msg, "ValidationException",
			one + "Value null at 'macAlgorithm' failed to satisfy constraint: Member must not be null", false},
		{"empty key id", "", good, msg, "ValidationException",
			one + "Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1", false},
		{"algorithm of another spec", *key.KeyId, "HMAC_SHA_512", msg, "InvalidKeyUsageException",
			"Algorithm HMAC_SHA_512 is incompatible with key spec HMAC_256.", false},
		{"key of another usage", signing, good, msg, "InvalidKeyUsageException",
			arnOf(signing) + " key usage is SIGN_VERIFY which is not valid for %OP%.", false},
		{"malformed key id", "fake-key-id", good, msg, "NotFoundException", "Invalid keyId 'fake-key-id'", false},
		{"key id without dashes", "1234abcd12ab34cd56ef1234567890ab", good, msg, "NotFoundException",
			"Invalid keyId '1234abcd12ab34cd56ef1234567890ab'", false},
		{"multi-Region id with dashes", "mrk-" + unknownID, good, msg, "NotFoundException", "Invalid keyId 'mrk-" + unknownID + "'", false},
		{"unknown key id", unknownID, good, msg, "NotFoundException", "Key '" + arnOf(unknownID) + "' does not exist", false},
		{"unknown key ARN", arnOf(unknownID), good, msg, "NotFoundException", "Key '" + arnOf(unknownID) + "' does not exist", false},
		{"foreign region", "arn:aws:kms:eu-west-1:111122223333:key/" + *key.KeyId, good, msg, "NotFoundException",
			"Invalid arn eu-west-1", false},
		{"foreign account", "arn:aws:kms:us-west-2:999999999999:key/" + *key.KeyId, good, msg, "AccessDeniedException",
			"User: arn:aws:iam::111122223333:root is not authorized to perform: kms:%OP% on resource: " +
				"arn:aws:kms:us-west-2:999999999999:key/" + *key.KeyId + " because no resource-based policy allows the kms:%OP% action", false},
		{"other partition", "arn:aws-cn:kms:us-west-2:111122223333:key/" + *key.KeyId, good, msg, "InvalidArnException",
			"Invalid arn arn:aws-cn:kms:us-west-2:111122223333:key/" + *key.KeyId, false},
		{"other service", "arn:aws:s3:us-west-2:111122223333:key/" + *key.KeyId, good, msg, "InvalidArnException",
			"Invalid arn arn:aws:s3:us-west-2:111122223333:key/" + *key.KeyId, false},
		{"other resource", "arn:aws:kms:us-west-2:111122223333:grant/x", good, msg, "InvalidArnException",
			"Invalid arn arn:aws:kms:us-west-2:111122223333:grant/x", false},
		{"unknown alias", "alias/none", good, msg, "NotFoundException",
			"Alias arn:aws:kms:us-west-2:111122223333:alias/none is not found.", false},
		{"unknown alias ARN", "arn:aws:kms:us-west-2:111122223333:alias/none", good, msg, "NotFoundException",
			"Alias arn:aws:kms:us-west-2:111122223333:alias/none is not found.", false},
		{"disabled key", *off.KeyId, good, msg, "DisabledException", arnOf(*off.KeyId) + " is disabled.", false},
		{"disabled key, algorithm of another spec", *off.KeyId, "HMAC_SHA_512", msg, "DisabledException",
			arnOf(*off.KeyId) + " is disabled.", false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, err := c.GenerateMac(t.Context(), &kms.GenerateMacInput{
				KeyId: &tc.keyID, MacAlgorithm: types.MacAlgorithmSpec(tc.algorithm), Message: tc.message})
			requireAPIErrorLike(t, err, tc.code, strings.ReplaceAll(tc.answer, "%OP%", "GenerateMac"))
			_, err = c.GenerateMac(t.Context(), &kms.GenerateMacInput{
				KeyId: &tc.keyID, MacAlgorithm: types.MacAlgorithmSpec(tc.algorithm), Message: tc.message, DryRun: aws.Bool(true)})
			requireAPIErrorLike(t, err, tc.code, strings.ReplaceAll(tc.answer, "%OP%", "GenerateMac"))
			_, err = c.VerifyMac(t.Context(), &kms.VerifyMacInput{
				KeyId: &tc.keyID, MacAlgorithm: types.MacAlgorithmSpec(tc.algorithm), Message: tc.message, Mac: make([]byte, 32)})
			requireAPIErrorLike(t, err, tc.code, strings.ReplaceAll(tc.answer, "%OP%", "VerifyMac"))
		})
	}
}

// putForeignKey writes the record of a signing key that this version cannot make, as a later one may.
func putForeignKey(t *testing.T, c *Client) string {
	const id = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
	record := keystore.Key{Region: testRegion, Account: testAccount, ID: id, State: keystore.Enabled, Spec: "SM2",
		Usage: "SIGN_VERIFY", Origin: "AWS_KMS", Created: time.Now().UTC().Truncate(time.Millisecond), CKAID: bytes.Repeat([]byte{7}, 16)}
	_, err := c.bridge.core.Cache.Commit(t.Context(), record.Put(0))
	require.NoError(t, err)
	return id
}

func TestNullKeyID(t *testing.T) {
	c := newClient(t)
	const text = "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null"
	_, err := c.DescribeKey(t.Context(), nil)
	requireAPIError(t, err, "ValidationException", text)
	_, err = c.EnableKey(t.Context(), nil)
	requireAPIError(t, err, "ValidationException", text)
	_, err = c.DisableKey(t.Context(), nil)
	requireAPIError(t, err, "ValidationException", text)
}

// EnableKey and DisableKey take ids and ARNs only.
func TestAliasWhereNoneIsTaken(t *testing.T) {
	c := newClient(t)
	_, err := c.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: ptr("alias/name")})
	requireAPIError(t, err, "NotFoundException", "Invalid keyId 'alias/name'")
	_, err = c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: ptr("arn:aws:kms:us-west-2:111122223333:alias/name")})
	requireAPIError(t, err, "NotFoundException", "Invalid keyId 'arn:aws:kms:us-west-2:111122223333:alias/name'")
}

func TestVerifyMacAnswers(t *testing.T) {
	c := newClient(t)
	for _, spec := range keyring.MACSpecs {
		key := mustCreate(t, c, spec.Name)
		msg := []byte("message")
		made, err := c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: key.KeyId, MacAlgorithm: spec.Algorithm, Message: msg})
		require.NoError(t, err)
		require.Equal(t, *key.Arn, *made.KeyId)
		require.Equal(t, spec.Algorithm, made.MacAlgorithm)
		require.Len(t, made.Mac, spec.Hash.TagBytes())
		ask := func(mac []byte, dry *bool) (*kms.VerifyMacOutput, error) {
			return c.VerifyMac(t.Context(), &kms.VerifyMacInput{KeyId: key.Arn, MacAlgorithm: spec.Algorithm, Message: msg, Mac: mac, DryRun: dry})
		}
		out, err := ask(made.Mac, aws.Bool(false))
		require.NoError(t, err)
		require.Equal(t, &kms.VerifyMacOutput{KeyId: key.Arn, MacAlgorithm: spec.Algorithm, MacValid: true}, out)

		flipped := bytes.Clone(made.Mac)
		flipped[len(flipped)-1] ^= 1
		wrong := map[string][]byte{
			"one bit":         flipped,
			"too short":       made.Mac[:len(made.Mac)-1],
			"one byte":        made.Mac[:1],
			"half":            made.Mac[:len(made.Mac)/2],
			"too long":        append(bytes.Clone(made.Mac), 0),
			"junk behind":     append(bytes.Clone(made.Mac), made.Mac...),
			"longest":         append(bytes.Clone(made.Mac), make([]byte, 6144-len(made.Mac))...),
			"zeros":           make([]byte, len(made.Mac)),
			"junk in front":   append([]byte{0}, made.Mac...),
			"another's first": append([]byte{made.Mac[0]}, make([]byte, len(made.Mac)-1)...),
		}
		for name, mac := range wrong {
			for _, dry := range []*bool{nil, aws.Bool(true)} {
				_, err := ask(mac, dry)
				requireAPIError(t, err, "KMSInvalidMacException", "")
				var typed *types.KMSInvalidMacException
				require.ErrorAs(t, err, &typed, name)
				require.Nil(t, typed.Message, "the real service sends no message")
			}
		}
		_, err = ask(made.Mac, aws.Bool(true))
		requireAPIError(t, err, "DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
		_, err = ask([]byte{}, nil)
		requireAPIError(t, err, "ValidationException",
			"1 validation error detected: Value at 'mac' failed to satisfy constraint: Member must have length greater than or equal to 1")
		_, err = ask(make([]byte, 6145), nil)
		requireAPIError(t, err, "ValidationException",
			"1 validation error detected: Value at 'mac' failed to satisfy constraint: Member must have length less than or equal to 6144")
		_, err = ask(nil, nil)
		requireAPIError(t, err, "ValidationException",
			"1 validation error detected: Value null at 'mac' failed to satisfy constraint: Member must not be null")
	}
}

func TestGenerateMacLimits(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	for _, n := range []int{1, 63, 64, 65, 4095, 4096} {
		mac, err := generate(t.Context(), c, key.KeyId, make([]byte, n))
		require.NoError(t, err, "%d bytes", n)
		require.NoError(t, verify(t.Context(), c, key.KeyId, make([]byte, n), mac))
	}
	_, err := c.GenerateMac(t.Context(),
		&kms.GenerateMacInput{KeyId: key.KeyId, MacAlgorithm: "HMAC_SHA_256", Message: []byte("m"), DryRun: aws.Bool(true)})
	requireAPIError(t, err, "DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
}

func TestGrantTokens(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId, GrantTokens: make([]string, 11)})
	requireCode(t, err, "ValidationException")
	require.Contains(t, err.Error(), "Value at 'grantTokens' failed to satisfy constraint: Member must have length less than or equal to 10")
	require.Contains(t, err.Error(),
		"Value at 'grantTokens.11.member' failed to satisfy constraint: Member must have length greater than or equal to 1")
	_, err = c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId, GrantTokens: []string{"secret-ish"}})
	requireCode(t, err, "InvalidGrantTokenException")
	require.NotContains(t, err.Error(), "secret-ish")
}
