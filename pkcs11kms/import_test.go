package pkcs11kms

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // one of the envelopes has it
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"hash"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// mustCreateExternal makes a key whose material is to be imported.
func mustCreateExternal(t testing.TB, c *Client, spec types.KeySpec) *types.KeyMetadata {
	t.Helper()
	out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: types.KeyUsageTypeGenerateVerifyMac,
		Origin: types.OriginTypeExternal})
	require.NoError(t, err)
	return out.KeyMetadata
}

// parameters are what GetParametersForImport answers.
func parameters(
	t testing.TB, c *Client, keyID *string, a types.AlgorithmSpec, spec types.WrappingKeySpec,
) *kms.GetParametersForImportOutput {
	t.Helper()
	out, err := c.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{KeyId: keyID, WrappingAlgorithm: a,
		WrappingKeySpec: spec})
	require.NoError(t, err)
	return out
}

const oaep1, oaep256 = types.AlgorithmSpecRsaesOaepSha1, types.AlgorithmSpecRsaesOaepSha256

// envelopes are all that there are.
var envelopes = []types.AlgorithmSpec{oaep1, oaep256, types.AlgorithmSpecRsaAesKeyWrapSha1, types.AlgorithmSpecRsaAesKeyWrapSha256}

func importInput(t testing.TB, keyID *string, p *kms.GetParametersForImportOutput, a types.AlgorithmSpec,
	material []byte) *kms.ImportKeyMaterialInput {
	t.Helper()
	blob, err := WrapKeyMaterial(a, p.PublicKey, material)
	require.NoError(t, err)
	return &kms.ImportKeyMaterialInput{KeyId: keyID, ImportToken: p.ImportToken, EncryptedKeyMaterial: blob,
		ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire}
}

// importMaterial does it in one step, with material that ends at until, or does not.
func importMaterial(t testing.TB, c *Client, keyID *string, a types.AlgorithmSpec, material []byte, until time.Time) error {
	t.Helper()
	in := importInput(t, keyID, parameters(t, c, keyID, a, types.WrappingKeySpecRsa2048), a, material)
	if !until.IsZero() {
		in.ExpirationModel, in.ValidTo = types.ExpirationModelTypeKeyMaterialExpires, &until
	}
	_, err := c.ImportKeyMaterial(t.Context(), in)
	return err
}

func stateOf(t testing.TB, c *Client, keyID *string) types.KeyState {
	t.Helper()
	return describe(t, c, keyID).KeyState
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func hmacOf(h func() hash.Hash, key, message []byte) []byte {
	m := hmac.New(h, key)
	m.Write(message)
	return m.Sum(nil)
}

var macHashes = map[types.KeySpec]func() hash.Hash{types.KeySpecHmac224: sha256.New224, types.KeySpecHmac256: sha256.New,
	types.KeySpecHmac384: sha512.New384, types.KeySpecHmac512: sha512.New}

// TestImport imports keys of each spec, of the shortest length, one that is no multiple of 8, and the longest, in each envelope, and
// compares what they make with Go's own.
func TestImport(t *testing.T) {
	c := newClient(t)
	for i := range keyring.MACSpecs {
		spec := &keyring.MACSpecs[i]
		for _, a := range envelopes {
			for _, length := range []int{spec.Hash.KeyBytes(), 77, 128} {
				key := mustCreateExternal(t, c, spec.Name)
				require.Equal(t, types.KeyStatePendingImport, key.KeyState)
				require.False(t, key.Enabled)
				require.Equal(t, types.OriginTypeExternal, key.Origin)
				require.Empty(t, key.ExpirationModel)
				material := random(length)
				require.NoError(t, importMaterial(t, c, key.KeyId, a, material, time.Time{}), "%s %s %d", spec.Name, a, length)
				out, err := c.GenerateMac(t.Context(),
					&kms.GenerateMacInput{KeyId: key.KeyId, MacAlgorithm: spec.Algorithm, Message: []byte("m")})
				require.NoError(t, err)
				require.Equal(t, hmacOf(macHashes[spec.Name], material, []byte("m")), out.Mac, "%s %s %d", spec.Name, a, length)
				now := describe(t, c, key.KeyId)
				require.Equal(t, types.KeyStateEnabled, now.KeyState)
				require.Equal(t, types.ExpirationModelTypeKeyMaterialDoesNotExpire, now.ExpirationModel)
				require.Nil(t, now.ValidTo)
				require.Nil(t, now.CurrentKeyMaterialId)
			}
		}
	}
}

// TestImportParameters has a pair of each length, which is the same one for all keys of a day, and import tokens that differ.
func TestImportParameters(t *testing.T) {
	c := newClient(t)
	key, other := mustCreateExternal(t, c, types.KeySpecHmac256), mustCreateExternal(t, c, types.KeySpecHmac256)
	before := c.bridge.cfg.Now()
	for spec, bits := range map[types.WrappingKeySpec]int{types.WrappingKeySpecRsa2048: 2048, types.WrappingKeySpecRsa3072: 3072,
		types.WrappingKeySpecRsa4096: 4096} {
		p, q := parameters(t, c, key.KeyId, oaep256, spec), parameters(t, c, other.KeyId, oaep256, spec)
		require.Equal(t, p.PublicKey, q.PublicKey)
		require.NotEqual(t, p.ImportToken, q.ImportToken)
		require.Equal(t, *key.Arn, *p.KeyId)
		require.WithinDuration(t, before.Add(24*time.Hour), *p.ParametersValidTo, time.Minute)
		parsed, err := x509.ParsePKIXPublicKey(p.PublicKey)
		require.NoError(t, err)
		require.Equal(t, bits, parsed.(*rsa.PublicKey).N.BitLen())
		require.NotEqual(t, p.PublicKey, parameters(t, c, key.KeyId, oaep1, spec).PublicKey, "one pair never both unwraps and decrypts")
	}
	for range 20 { // whoever asks again and again fills nothing
		parameters(t, c, key.KeyId, oaep256, types.WrappingKeySpecRsa2048)
	}
	objects, err := c.region.Token.Objects(t.Context())
	require.NoError(t, err)
	pairs := 0
	for _, o := range objects {
		if o.PrivateKey() {
			pairs++
			require.True(t, o.Sensitive && !o.Extractable && !o.Sign, o.Label)
		}
	}
	require.Equal(t, 6, pairs)

	for _, in := range []*kms.GetParametersForImportInput{
		{KeyId: key.KeyId, WrappingAlgorithm: types.AlgorithmSpecRsaesPkcs1V15, WrappingKeySpec: types.WrappingKeySpecRsa2048},
		{KeyId: key.KeyId, WrappingAlgorithm: types.AlgorithmSpecSm2pke, WrappingKeySpec: types.WrappingKeySpecRsa2048},
		{KeyId: key.KeyId, WrappingAlgorithm: oaep256, WrappingKeySpec: types.WrappingKeySpecSm2},
	} {
		_, err := c.GetParametersForImport(t.Context(), in)
		requireCode(t, err, "UnsupportedOperationException")
	}
}

// TestImportErrors has an import token of another key, altered and expired, and envelopes that are altered, of another length and for
// another pair, in each kind. What SoftHSM answers to these is not taken for the loss of the token.
func TestImportErrors(t *testing.T) {
	cfg := newConfig(t)
	clock := newClock()
	cfg.Now = clock.Now
	c := openClient(t, cfg)
	key, other := mustCreateExternal(t, c, types.KeySpecHmac256), mustCreateExternal(t, c, types.KeySpecHmac256)
	losses := c.region.Token.State().Losses
	for _, a := range envelopes {
		p := parameters(t, c, key.KeyId, a, types.WrappingKeySpecRsa2048)
		good := importInput(t, key.KeyId, p, a, random(32))
		refused := func(code string, change func(in *kms.ImportKeyMaterialInput)) {
			t.Helper()
			in := *good
			in.ImportToken, in.EncryptedKeyMaterial = bytes.Clone(in.ImportToken), bytes.Clone(in.EncryptedKeyMaterial)
			change(&in)
			_, err := c.ImportKeyMaterial(t.Context(), &in)
			requireAPIError(t, err, code, "")
		}
		for _, at := range []int{0, 1, 20, len(p.ImportToken) / 2, len(p.ImportToken) - 1} {
			refused("InvalidImportTokenException", func(in *kms.ImportKeyMaterialInput) { in.ImportToken[at] ^= 1 })
			refused("InvalidImportTokenException", func(in *kms.ImportKeyMaterialInput) { in.ImportToken = in.ImportToken[:max(1, at)] })
		}
		refused("InvalidImportTokenException", func(in *kms.ImportKeyMaterialInput) { in.KeyId = other.KeyId })
		refused("InvalidImportTokenException", func(in *kms.ImportKeyMaterialInput) { in.ImportToken = random(300) })
		for _, at := range []int{0, 1, 100, 255, len(good.EncryptedKeyMaterial) - 1} {
			refused("InvalidCiphertextException", func(in *kms.ImportKeyMaterialInput) { in.EncryptedKeyMaterial[at] ^= 1 })
			refused("InvalidCiphertextException", func(in *kms.ImportKeyMaterialInput) {
				in.EncryptedKeyMaterial = in.EncryptedKeyMaterial[:max(1, at)]
			})
		}
		refused("InvalidCiphertextException", func(in *kms.ImportKeyMaterialInput) {
			in.EncryptedKeyMaterial = append(in.EncryptedKeyMaterial, make([]byte, 8)...)
		})
		refused("InvalidCiphertextException", func(in *kms.ImportKeyMaterialInput) { // of another hash
			parsed, err := x509.ParsePKIXPublicKey(p.PublicKey)
			require.NoError(t, err)
			h := sha512.New384()
			in.EncryptedKeyMaterial, err = rsa.EncryptOAEP(h, rand.Reader, parsed.(*rsa.PublicKey), random(32), nil)
			require.NoError(t, err)
		})
		refused("InvalidCiphertextException", func(in *kms.ImportKeyMaterialInput) { // with a label
			parsed, err := x509.ParsePKIXPublicKey(p.PublicKey)
			require.NoError(t, err)
			in.EncryptedKeyMaterial, err = rsa.EncryptOAEP(sha1.New(), rand.Reader, parsed.(*rsa.PublicKey), random(32), []byte("l"))
			require.NoError(t, err)
		})
		refused("InvalidCiphertextException", func(in *kms.ImportKeyMaterialInput) { // for another pair
			another, err := rsa.GenerateKey(rand.Reader, 2048)
			require.NoError(t, err)
			der, err := x509.MarshalPKIXPublicKey(&another.PublicKey)
			require.NoError(t, err)
			in.EncryptedKeyMaterial, err = WrapKeyMaterial(a, der, random(32))
			require.NoError(t, err)
		})
		refused("IncorrectKeyMaterialException", func(in *kms.ImportKeyMaterialInput) { // too short
			*in = *importInput(t, key.KeyId, p, a, random(31))
		})
		require.Equal(t, types.KeyStatePendingImport, stateOf(t, c, key.KeyId))
		record, _ := storedKey(t, c, key.KeyId)
		require.Empty(t, record.Instance)
	}
	a := oaep256
	p := parameters(t, c, key.KeyId, a, types.WrappingKeySpecRsa2048)
	in := importInput(t, key.KeyId, p, a, random(32))
	clock.Advance(24*time.Hour + time.Second)
	_, err := c.ImportKeyMaterial(t.Context(), in)
	requireAPIError(t, err, "ExpiredImportTokenException", "")
	require.Equal(t, losses, c.region.Token.State().Losses)
	objects, err := c.region.Token.Objects(t.Context())
	require.NoError(t, err)
	for _, o := range objects {
		require.NotEqual(t, *key.KeyId, o.Label)
	}
}

// TestImportTooLong has a key longer than AWS KMS takes. What the token opens by itself shows its length by that of the blob alone.
func TestImportTooLong(t *testing.T) {
	c := newClient(t)
	key := mustCreateExternal(t, c, types.KeySpecHmac256)
	for a, code := range map[types.AlgorithmSpec]string{
		oaep256:                                "IncorrectKeyMaterialException",
		types.AlgorithmSpecRsaAesKeyWrapSha1:   "InvalidCiphertextException",
		types.AlgorithmSpecRsaAesKeyWrapSha256: "InvalidCiphertextException",
	} {
		requireAPIError(t, importMaterial(t, c, key.KeyId, a, random(129), time.Time{}), code, "")
	}
}

// TestReimport has only the material that was there first, whatever happened between.
func TestReimport(t *testing.T) {
	c := newClient(t)
	key := mustCreateExternal(t, c, types.KeySpecHmac256)
	first, second := random(32), random(32)
	require.NoError(t, importMaterial(t, c, key.KeyId, oaep256, first, time.Time{}))
	mac, err := generate(t.Context(), c, key.KeyId, []byte("m"))
	require.NoError(t, err)
	requireAPIError(t, importMaterial(t, c, key.KeyId, oaep1, second, time.Time{}), "IncorrectKeyMaterialException", "")
	until := c.bridge.cfg.Now().Add(time.Hour).UTC().Truncate(time.Second)
	require.NoError(t, importMaterial(t, c, key.KeyId, oaep1, first, until))
	now := describe(t, c, key.KeyId)
	require.Equal(t, types.ExpirationModelTypeKeyMaterialExpires, now.ExpirationModel)
	require.Equal(t, until, *now.ValidTo)

	old := importInput(t, key.KeyId, parameters(t, c, key.KeyId, oaep1, types.WrappingKeySpecRsa2048), oaep1, first)
	for range 2 { // the second time it does nothing
		_, err = c.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: key.KeyId})
		require.NoError(t, err)
		gone := describe(t, c, key.KeyId)
		require.Equal(t, types.KeyStatePendingImport, gone.KeyState)
		require.Empty(t, gone.ExpirationModel)
		require.Nil(t, gone.ValidTo)
	}
	_, err = generate(t.Context(), c, key.KeyId, []byte("m"))
	requireAPIError(t, err, "KMSInvalidStateException", *key.Arn+" is pending import.")
	record, _ := storedKey(t, c, key.KeyId)
	_, err = c.region.Token.Describe(t.Context(), record.CKAID)
	require.Error(t, err, "the object has gone")

	_, err = c.ImportKeyMaterial(t.Context(), old)
	requireAPIError(t, err, "InvalidImportTokenException", "") // an envelope of before is not to be replayed
	requireAPIError(t, importMaterial(t, c, key.KeyId, oaep1, second, time.Time{}), "IncorrectKeyMaterialException", "")
	require.NoError(t, importMaterial(t, c, key.KeyId, oaep1, first, time.Time{}))
	again, err := generate(t.Context(), c, key.KeyId, []byte("m"))
	require.NoError(t, err)
	require.Equal(t, mac, again)

	require.NoError(t, toggle(t.Context(), c, key.KeyId, false))
	require.NoError(t, importMaterial(t, c, key.KeyId, oaep1, first, time.Time{}))
	require.Equal(t, types.KeyStateDisabled, stateOf(t, c, key.KeyId), "importing again does not enable")
}

// TestImportBringsBack has an object that somebody has destroyed come back with the material, and no other.
func TestImportBringsBack(t *testing.T) {
	c := newClient(t)
	key := mustCreateExternal(t, c, types.KeySpecHmac256)
	first := random(32)
	require.NoError(t, importMaterial(t, c, key.KeyId, oaep1, first, time.Time{}))
	record, _ := storedKey(t, c, key.KeyId)
	require.NoError(t, c.region.Token.DestroyKey(t.Context(), record.CKAID, record.ID))
	require.NoError(t, importMaterial(t, c, key.KeyId, oaep1, first, time.Time{}))
	mac, err := generate(t.Context(), c, key.KeyId, []byte("m"))
	require.NoError(t, err)
	require.Equal(t, hmacOf(sha256.New, first, []byte("m")), mac)
}

// TestMaterialOfPendingKeys has material deleted and expired while the key is pending deletion.
func TestMaterialOfPendingKeys(t *testing.T) {
	c := newClient(t)
	key := mustCreateExternal(t, c, types.KeySpecHmac256)
	require.NoError(t, importMaterial(t, c, key.KeyId, oaep1, random(32), time.Time{}))
	schedule(t, c, key.KeyId, 7)
	_, err := c.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: key.KeyId})
	require.NoError(t, err)
	require.Equal(t, types.KeyStatePendingDeletion, stateOf(t, c, key.KeyId))
	_, err = c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: key.KeyId})
	require.NoError(t, err)
	require.Equal(t, types.KeyStatePendingImport, stateOf(t, c, key.KeyId))
}

// TestExpiry has a key used until its time, and not after, also with a clock that goes back, in another Bridge, and once more after the
// janitor has taken the material away.
func TestExpiry(t *testing.T) {
	cfg := newConfig(t)
	clock := newClock()
	cfg.Now = clock.Now
	c := openClient(t, cfg)
	key := mustCreateExternal(t, c, types.KeySpecHmac256)
	material := random(32)
	require.NoError(t, importMaterial(t, c, key.KeyId, oaep256, material, clock.Now().Add(9*time.Minute)))
	other := openClient(t, cfg) // with its own clock of the same time, and its own cache
	for _, use := range []*Client{c, other} {
		for range 5 { // so that the object has a session copy
			_, err := generate(t.Context(), use, key.KeyId, []byte("m"))
			require.NoError(t, err)
		}
	}
	clock.Advance(9*time.Minute - time.Second)
	_, err := generate(t.Context(), c, key.KeyId, []byte("m"))
	require.NoError(t, err)
	clock.Advance(time.Second)
	for _, use := range []*Client{c, other} {
		_, err = generate(t.Context(), use, key.KeyId, []byte("m"))
		requireAPIError(t, err, "KMSInvalidStateException", *key.Arn+" is pending import.")
		require.Equal(t, types.KeyStatePendingImport, stateOf(t, use, key.KeyId))
	}
	clock.Advance(-5 * time.Minute)
	_, err = generate(t.Context(), c, key.KeyId, []byte("m"))
	requireCode(t, err, "KMSInvalidStateException")

	require.Eventually(t, func() bool { // the janitor was woken
		record, _ := storedKey(t, c, key.KeyId)
		return record.State == keystore.PendingImport
	}, 10*time.Second, 10*time.Millisecond)
	late := openClient(t, cfg) // who has seen nothing of it
	_, err = generate(t.Context(), late, key.KeyId, []byte("m"))
	requireAPIError(t, err, "KMSInvalidStateException", *key.Arn+" is pending import.")
	record, _ := storedKey(t, c, key.KeyId)
	require.True(t, record.Import.Held)
	_, err = c.region.Token.Describe(t.Context(), record.CKAID)
	require.NoError(t, err, "a process that is young destroys nothing by its clock")

	clock.Advance(2 * time.Hour)
	require.NoError(t, c.bridge.core.Keys.Expire(t.Context()))
	record, _ = storedKey(t, c, key.KeyId)
	require.False(t, record.Import.Held)
	require.Empty(t, record.Instance)
	_, err = c.region.Token.Describe(t.Context(), record.CKAID)
	require.Error(t, err, "the object has gone")
	requireAPIError(t, importMaterial(t, c, key.KeyId, oaep256, random(32), time.Time{}), "IncorrectKeyMaterialException", "")
	require.NoError(t, importMaterial(t, c, key.KeyId, oaep256, material, time.Time{}))
	_, err = generate(t.Context(), c, key.KeyId, []byte("m"))
	require.NoError(t, err)
}

// TestImportInput has the rules between the members.
func TestImportInput(t *testing.T) {
	c := newClient(t)
	key := mustCreateExternal(t, c, types.KeySpecHmac256)
	in := func() *kms.ImportKeyMaterialInput {
		return &kms.ImportKeyMaterialInput{KeyId: key.KeyId, ImportToken: []byte("t"), EncryptedKeyMaterial: []byte("m")}
	}
	now := c.bridge.cfg.Now()
	for _, bad := range []struct {
		model   types.ExpirationModelType
		validTo *time.Time
		text    string
	}{
		{"", nil, "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES"},
		{types.ExpirationModelTypeKeyMaterialExpires, nil, "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES"},
		{types.ExpirationModelTypeKeyMaterialDoesNotExpire, aws.Time(now.Add(time.Hour)), "A validTo date must not be set if the " +
			"ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE"},
		{"", aws.Time(now.Add(-time.Second)), "The validTo date must be in the future"},
		{"", aws.Time(now.Add(366 * 24 * time.Hour)), "The validTo date must be within 365 days"},
	} {
		x := in()
		x.ExpirationModel, x.ValidTo = bad.model, bad.validTo
		_, err := c.ImportKeyMaterial(t.Context(), x)
		requireAPIError(t, err, "ValidationException", bad.text)
	}
	x := in()
	x.ExpirationModel, x.ImportType = types.ExpirationModelTypeKeyMaterialDoesNotExpire, types.ImportTypeNewKeyMaterial
	_, err := c.ImportKeyMaterial(t.Context(), x)
	requireCode(t, err, "UnsupportedOperationException")
}

// TestSoftwareUnwrapIsSwitchedOff has a token alone open envelopes, and a refusal of what it does not open, which names what it does.
func TestSoftwareUnwrapIsSwitchedOff(t *testing.T) {
	cfg := newConfig(t)
	region := cfg.Regions[testRegion]
	software := openClient(t, cfg)
	key := mustCreateExternal(t, software, types.KeySpecHmac256)
	p := parameters(t, software, key.KeyId, oaep256, types.WrappingKeySpecRsa2048)
	region.Import = ImportByToken
	cfg.Regions[testRegion] = region
	c := openClient(t, cfg)
	_, err := c.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{KeyId: key.KeyId, WrappingAlgorithm: oaep256,
		WrappingKeySpec: types.WrappingKeySpecRsa2048})
	requireAPIError(t, err, "UnsupportedOperationException", "WrappingAlgorithm RSAES_OAEP_SHA_256 is not supported by the token. "+
		"It opens RSAES_OAEP_SHA_1, RSA_AES_KEY_WRAP_SHA_1.")
	_, err = c.ImportKeyMaterial(t.Context(), importInput(t, key.KeyId, p, oaep256, random(32)))
	requireAPIError(t, err, "InvalidImportTokenException", "")
	require.NoError(t, importMaterial(t, c, key.KeyId, oaep1, random(32), time.Time{}))
}

// TestImportsAtOnce has many imports of one key at once, of which one material wins, in two Bridges.
func TestImportsAtOnce(t *testing.T) {
	cfg := newConfig(t)
	clients := []*Client{openClient(t, cfg), openClient(t, cfg)}
	key := mustCreateExternal(t, clients[0], types.KeySpecHmac256)
	p := parameters(t, clients[0], key.KeyId, oaep1, types.WrappingKeySpecRsa2048)
	type outcome struct {
		material []byte
		err      error
	}
	done := make(chan outcome)
	const n = 6
	for i := range n {
		material := random(32)
		in := importInput(t, key.KeyId, p, oaep1, material)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_, err := clients[i%2].ImportKeyMaterial(ctx, in)
			done <- outcome{material, err}
		}()
	}
	var won [][]byte
	for range n {
		got := <-done
		if got.err == nil {
			won = append(won, got.material)
			continue
		}
		requireAPIError(t, got.err, "IncorrectKeyMaterialException", "")
	}
	require.Len(t, won, 1)
	mac, err := generate(t.Context(), clients[1], key.KeyId, []byte("m"))
	require.NoError(t, err)
	assert.Equal(t, hmacOf(sha256.New, won[0], []byte("m")), mac)
}

// TestStateTableOfImportedKeys has each operation on a key of origin EXTERNAL in each state, also after the material has expired.
func TestStateTableOfImportedKeys(t *testing.T) {
	cfg := newConfig(t)
	clock := newClock()
	cfg.Now = clock.Now
	c := openClient(t, cfg)
	const ok, kind = "ok", "UnsupportedOperationException: "
	const external = kind + "%ARN% origin is EXTERNAL which is not valid for this operation."
	const pending, none = "KMSInvalidStateException: %ARN% is pending deletion.", "KMSInvalidStateException: %ARN% is pending import."
	const badToken = "InvalidImportTokenException: "
	table := stateTable(types.KeyUsageTypeGenerateVerifyMac)
	empty := map[string]string{} // in PendingImport
	for op, row := range table {
		empty[op] = row.enabled
		switch rowOf(op).States {
		case ops.EnabledOnly, ops.HasMaterial:
			empty[op] = none
		}
	}
	for _, op := range []string{"EnableKeyRotation", "DisableKeyRotation", "GetKeyRotationStatus"} {
		empty[op] = external
	}
	table["GetParametersForImport"], empty["GetParametersForImport"] = cell{ok, ok, pending}, ok
	table["ImportKeyMaterial"], empty["ImportKeyMaterial"] = cell{badToken, badToken, pending}, badToken
	table["DeleteImportedKeyMaterial"], empty["DeleteImportedKeyMaterial"] = cell{ok, ok, ok}, ok
	for _, op := range operations() {
		if namesNoKey[op] {
			continue
		}
		for state, want := range map[string]string{"Enabled": table[op].enabled, "Disabled": table[op].disabled,
			"PendingDeletion": table[op].pending, "PendingImport": empty[op], "expired": empty[op], "deleted": empty[op]} {
			key := mustCreateExternal(t, c, types.KeySpecHmac256)
			if state != "PendingImport" {
				require.NoError(t, importMaterial(t, c, key.KeyId, oaep1, random(32), clock.Now().Add(time.Minute)))
			}
			switch state {
			case "Disabled":
				require.NoError(t, toggle(t.Context(), c, key.KeyId, false))
			case "PendingDeletion":
				schedule(t, c, key.KeyId, 7)
			case "expired":
				clock.Advance(time.Minute)
			case "deleted":
				_, err := c.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: key.KeyId})
				require.NoError(t, err)
			}
			if op == "UpdateAlias" {
				createAlias(t, c, "alias/minimal", mustCreate(t, c, types.KeySpecHmac256).KeyId)
			}
			got := answerOf(t, c, op, *key.KeyId)
			require.Equal(t, strings.ReplaceAll(want, "%ARN%", *key.Arn), got, "%s in the state %s", op, state)
			if strings.HasSuffix(op, "Alias") && (got == "ok" || op == "UpdateAlias") {
				require.Equal(t, "ok", answerOf(t, c, "DeleteAlias", *key.KeyId))
			}
		}
	}
}
