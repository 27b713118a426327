package doctor

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ThalesIgnite/crypto11"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// hmacSHA256 is CKM_SHA256_HMAC, as crypto11 takes it.
const hmacSHA256 = 0x251

// byCrypto11 lets another application work on the token. It must be the only one in the process meanwhile.
func byCrypto11(t *testing.T, tok softhsm.TestToken, work func(*crypto11.Context)) {
	t.Helper()
	other, err := crypto11.Configure(&crypto11.Config{Path: tok.Module, TokenSerial: tok.Serial, Pin: tok.PIN()})
	require.NoError(t, err)
	work(other)
	require.NoError(t, other.Close())
}

// object makes a secret key by crypto11, with attributes of one's own.
func object(t *testing.T, other *crypto11.Context, id, label string, bits int, more map[crypto11.AttributeType]any) *crypto11.SecretKey {
	t.Helper()
	set := crypto11.NewAttributeSet()
	require.NoError(t, set.Set(crypto11.CkaId, []byte(id)))
	require.NoError(t, set.Set(crypto11.CkaLabel, []byte(label)))
	for attribute, value := range more {
		require.NoError(t, set.Set(attribute, value))
	}
	key, err := other.GenerateSecretKeyWithAttributes(set, bits, crypto11.CipherGeneric)
	require.NoError(t, err)
	return key
}

func mustAdopt(t *testing.T, c *client, o AdoptOptions) (*types.KeyMetadata, []string) {
	t.Helper()
	m, weak, err := AdoptKey(t.Context(), c.Client, o)
	require.NoError(t, err)
	return m, weak
}

// A key of another application makes the same MACs under management as it made there.
func TestAdoptKeyOfCrypto11(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	var want []byte
	byCrypto11(t, tok, func(other *crypto11.Context) {
		mac, err := object(t, other, "their id", "sessions", 256, nil).NewHMAC(hmacSHA256, 0)
		require.NoError(t, err)
		_, err = mac.Write([]byte("m"))
		require.NoError(t, err)
		want = mac.Sum(nil)
	})
	c := openClient(t, cfg)
	m, weak := mustAdopt(t, c, AdoptOptions{Label: "sessions", KeySpec: types.KeySpecHmac256, Description: "was the shop's"})
	require.Equal(t, []string{"usable with other mechanisms than the HMAC with SHA-256"}, weak)
	require.Equal(t, m, describe(t, c, m.KeyId))
	require.True(t, m.Enabled)
	require.Equal(t, "was the shop's", *m.Description)
	got, err := generate(t.Context(), c, m.Arn, []byte("m"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "another MAC than crypto11's")
	require.Equal(t, 1, keyCount(t, c))

	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	require.Equal(t, StatusWarning, r.find("key", *m.KeyId)[0].Status)
	require.Contains(t, r.find("key", *m.KeyId)[0].Text, "other mechanisms")
	require.Equal(t, "keep", r.Regions[0].Keys[0].Adopted)
	require.Empty(t, r.Regions[0].Unknown)

	_, _, err = AdoptKey(t.Context(), c.Client, AdoptOptions{ID: []byte("their id"), KeySpec: types.KeySpecHmac256})
	requireRefused(t, err, "belongs to the key "+*m.KeyId+" in us-west-2 already")
	require.ErrorIs(t, err, keystore.ErrExists)
	require.Equal(t, 1, keyCount(t, c))
}

// pkcs11Tool runs the tool of OpenSC on a token.
func pkcs11Tool(t *testing.T, tok softhsm.TestToken, args ...string) {
	t.Helper()
	tool, err := exec.LookPath("pkcs11-tool")
	if err != nil {
		for part := range strings.SplitSeq(os.Getenv(softhsm.EnvRequire), ",") {
			require.NotContains(t, []string{"opensc", "all"}, strings.TrimSpace(part), "pkcs11-tool is required and missing")
		}
		t.Skip("pkcs11-tool is missing (apt-get install opensc)")
	}
	cmd := exec.Command(tool, append([]string{"--module", tok.Module, "--token-label", tok.Label, "--login", "--pin", "env:PIN"}, args...)...)
	cmd.Env = append(append(os.Environ(), tok.Env()...), "PIN="+tok.PIN())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func TestAdoptKeyOfPKCS11Tool(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	c := openClient(t, cfg)
	pkcs11Tool(t, tok, "--keygen", "--key-type", "GENERIC:32", "--label", "open", "--id", "0a01", "--usage-sign")
	pkcs11Tool(t, tok, "--keygen", "--key-type", "GENERIC:32", "--label", "nameless", "--usage-sign")
	_, weak := mustAdopt(t, c, AdoptOptions{ID: []byte{0x0a, 0x01}, KeySpec: types.KeySpecHmac256})
	require.Subset(t, weak, []string{"not sensitive"})
	_, _, err := AdoptKey(t.Context(), c.Client, AdoptOptions{Label: "nameless", KeySpec: types.KeySpecHmac256})
	requireRefused(t, err, "empty CKA_ID")
}

func TestAdoptSaysWhatIsWeaker(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	byCrypto11(t, tok, func(other *crypto11.Context) {
		object(t, other, "1", "loose", 256, map[crypto11.AttributeType]any{
			crypto11.CkaSensitive: false, crypto11.CkaExtractable: true, crypto11.CkaPrivate: false})
	})
	c := openClient(t, cfg)
	m, weak := mustAdopt(t, c, AdoptOptions{Label: "loose", KeySpec: types.KeySpecHmac256})
	require.Equal(t, []string{"not sensitive", "extractable", "not private", "usable with other mechanisms than the HMAC with SHA-256"}, weak)
	require.Contains(t, examine(t.Context(), cfg).find("key", *m.KeyId)[0].Text, "not sensitive, extractable, not private")

	_, err := c.token().ImportHMACKey(t.Context(), token.SHA512, []byte("imported"), "imported", bytes.Repeat([]byte{5}, maxAdoptedBytes))
	require.NoError(t, err)
	m, weak = mustAdopt(t, c, AdoptOptions{ID: []byte("imported"), KeySpec: types.KeySpecHmac512})
	require.Equal(t, []string{"not always sensitive", "extractable at some time", "not generated in the token"}, weak)
	require.Equal(t, types.KeySpecHmac512, m.KeySpec)

	_, err = c.token().GenerateHMACKey(t.Context(), token.SHA384, []byte("like ours"), "like ours")
	require.NoError(t, err)
	m, weak = mustAdopt(t, c, AdoptOptions{Label: "like ours", KeySpec: types.KeySpecHmac384})
	require.Empty(t, weak)
	require.Equal(t, StatusOK, examine(t.Context(), cfg).find("key", *m.KeyId)[0].Status, "its label is its own affair")
}

func TestAdoptRefusals(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	byCrypto11(t, tok, func(other *crypto11.Context) {
		object(t, other, "mute", "mute", 256, map[crypto11.AttributeType]any{crypto11.CkaSign: false})
		object(t, other, "twin-1", "twins", 256, nil)
		object(t, other, "twin-2", "twins", 256, nil)
		object(t, other, "shared", "one of two", 256, nil)
		object(t, other, "shared", "two of two", 256, nil)
		object(t, other, "pair and key", "beside a pair", 256, nil)
		_, err := other.GenerateECDSAKeyPairWithLabel([]byte("pair and key"), []byte("half"), elliptic.P256())
		require.NoError(t, err)
		_, err = other.GenerateECDSAKeyPairWithLabel([]byte("pair"), []byte("pair"), elliptic.P256())
		require.NoError(t, err)
		_, err = other.GenerateSecretKeyWithLabel([]byte("aes"), []byte("aes"), 256, crypto11.CipherAES)
		require.NoError(t, err)
		object(t, other, "service", keyring.ServicePrefix+"access-keys", 256, nil)
	})
	c := openClient(t, cfg)
	for id, n := range map[string]int{"31 bytes": 31, "129 bytes": 129} {
		_, err := c.token().ImportHMACKey(t.Context(), token.SHA256, []byte(id), id, bytes.Repeat([]byte{5}, n))
		require.NoError(t, err)
	}
	_, err := c.token().GenerateHMACKey(t.Context(), token.SHA512, []byte("bound"), "bound to SHA-512")
	require.NoError(t, err)
	ours := mustCreate(t, c, types.KeySpecHmac256)
	before, err := c.token().Objects(t.Context())
	require.NoError(t, err)

	const spec = types.KeySpecHmac256
	for text, o := range map[string]AdoptOptions{
		"exactly one of":                             {KeySpec: spec},
		"exactly one of the label and":               {KeySpec: spec, Label: "a", ID: []byte("b")},
		`keys of the spec "SYMMETRIC_DEFAULT"`:       {KeySpec: types.KeySpecSymmetricDefault, Label: "twins"},
		"key type 0x10) is no private key of RSA":    {KeySpec: types.KeySpecRsa2048, Label: "mute"},
		"key type 0x3) is no private key of RSA":     {KeySpec: types.KeySpecRsa2048, Label: "pair"},
		"do not make the signatures of ECC_NIST_P38": {KeySpec: types.KeySpecEccNistP384, Label: "pair"},
		"3 key objects of the token share the CKA":   {KeySpec: types.KeySpecEccNistP256, ID: []byte("pair and key")},
		`keys of the spec ""`:                        {Label: "twins"},
		"the description is over 8192 characters":    {KeySpec: spec, Label: "mute", Description: strings.Repeat("ä", 8193)},
		`no key object of the token has the label`:   {KeySpec: spec, Label: "Twins"},
		"has the CKA_ID 6e6f6e65":                    {KeySpec: spec, ID: []byte("none")},
		`2 key objects of the token have the label`:  {KeySpec: spec, Label: "twins"},
		"2 key objects of the token share the":       {KeySpec: spec, ID: []byte("shared")},
		"share the CKA_ID 736861726564":              {KeySpec: spec, Label: "one of two"},
		"3 key objects of the token share the":       {KeySpec: spec, Label: "beside a pair"},
		"(CKO_PRIVATE_KEY, key type 0x3) is no":      {KeySpec: spec, Label: "pair"},
		"(CKO_SECRET_KEY, key type 0x1f) is no":      {KeySpec: spec, Label: "aes"},
		"CKA_SIGN is false":                          {KeySpec: spec, Label: "mute"},
		"the object has 31 bytes, and HMAC_256":      {KeySpec: spec, Label: "31 bytes"},
		"takes keys of 32 to 128 bytes":              {KeySpec: spec, Label: "129 bytes"},
		"takes keys of 64 to 128 bytes":              {KeySpec: types.KeySpecHmac512, ID: []byte("twin-1")},
		"does not allow HMACs with SHA-256":          {KeySpec: spec, Label: "bound to SHA-512"},
		"the object is a service key":                {KeySpec: spec, Label: keyring.ServicePrefix + "access-keys"},
		"belongs to the key " + *ours.KeyId + " in ": {KeySpec: spec, Label: *ours.KeyId},
	} {
		_, _, err := AdoptKey(t.Context(), c.Client, o)
		requireRefused(t, err, text)
	}
	require.Equal(t, 1, keyCount(t, c))
	after, err := c.token().Objects(t.Context())
	require.NoError(t, err)
	require.Len(t, after, len(before))
	mustAdopt(t, c, AdoptOptions{ID: []byte("twin-1"), KeySpec: spec})
}

// An object of which a record of another region has the CKA_ID, as in a copy of the token, is not adopted.
func TestAdoptRefusesWhatAnotherRegionHas(t *testing.T) {
	c := newClient(t)
	_, err := c.token().GenerateHMACKey(t.Context(), token.SHA256, bytes.Repeat([]byte{9}, 16), "copy")
	require.NoError(t, err)
	record := keystore.Key{Region: "eu-west-1", Account: testAccount, ID: unknownID, State: keystore.Enabled, Spec: "HMAC_256",
		Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: bytes.Repeat([]byte{9}, 16)}
	_, err = c.inside.Store.Commit(t.Context(), record.Put(0))
	require.NoError(t, err)
	_, _, err = AdoptKey(t.Context(), c.Client, AdoptOptions{Label: "copy", KeySpec: types.KeySpecHmac256})
	requireRefused(t, err, unknownID+" in eu-west-1 already")
}

func TestAdoptCountsAndHasOneWinner(t *testing.T) {
	cfg := newConfig(t)
	cfg.Quotas.Keys = 2
	clients := []*client{openClient(t, cfg), openClient(t, cfg)}
	mustCreate(t, clients[0], types.KeySpecHmac256)
	for _, id := range []string{"contested", "one too many"} {
		_, err := clients[0].token().GenerateHMACKey(t.Context(), token.SHA256, []byte(id), id)
		require.NoError(t, err)
	}
	errs := make(chan error)
	for i := range 6 {
		go func() {
			_, _, err := AdoptKey(t.Context(), clients[i%2].Client, AdoptOptions{Label: "contested", KeySpec: types.KeySpecHmac256})
			errs <- err
		}()
	}
	won := 0
	for range 6 {
		err := <-errs
		if err == nil {
			won++
			continue
		}
		var refused *pkcs11kms.RefusedError
		var limit *types.LimitExceededException
		require.True(t, errors.As(err, &refused) || errors.As(err, &limit), "%v", err)
	}
	require.Equal(t, 1, won)
	require.Equal(t, 2, keyCount(t, clients[1]))
	_, _, err := AdoptKey(t.Context(), clients[1].Client, AdoptOptions{Label: "one too many", KeySpec: types.KeySpecHmac256})
	requireAPIError(t, err, "LimitExceededException", "The account has reached its limit of 2 keys in the region.")
}

// What looks right is tried before it counts.
func TestAdoptTriesTheObject(t *testing.T) {
	c := newClient(t)
	_, err := c.token().GenerateHMACKey(t.Context(), token.SHA256, []byte("fleeting"), "fleeting")
	require.NoError(t, err)
	o, err := c.token().Describe(t.Context(), []byte("fleeting"))
	require.NoError(t, err)
	spec := keyring.MACSpecOf(types.KeySpecHmac256)
	_, _, err = adoptable(t.Context(), c.inside.Store, c.token(), spec, o)
	require.NoError(t, err)
	require.NoError(t, c.token().DestroyKey(t.Context(), o.ID, "fleeting"))
	_, _, err = adoptable(t.Context(), c.inside.Store, c.token(), spec, o)
	requireRefused(t, err, "does not make a MAC with the object")
}

// An object that was kept can be adopted with another spec, and processes that knew it before use it so.
func TestAdoptAnewWithAnotherSpec(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	byCrypto11(t, tok, func(other *crypto11.Context) { object(t, other, "theirs", "theirs", 512, nil) })
	c, other := openClient(t, cfg), openClient(t, cfg)
	first, _ := mustAdopt(t, c, AdoptOptions{Label: "theirs", KeySpec: types.KeySpecHmac256})
	mac, err := generate(t.Context(), other, first.KeyId, []byte("m"))
	require.NoError(t, err)
	require.Len(t, mac, sha256.Size)
	record, version := storedKey(t, c, first.KeyId)
	removed, err := c.inside.Keys.Finish(t.Context(), record, version) // as at the end of a deletion
	require.NoError(t, err)
	require.True(t, removed)
	second, _ := mustAdopt(t, c, AdoptOptions{Label: "theirs", KeySpec: types.KeySpecHmac512})
	out, err := other.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: second.KeyId,
		MacAlgorithm: types.MacAlgorithmSpecHmacSha512, Message: []byte("m")})
	require.NoError(t, err)
	require.Len(t, out.Mac, 64)
}
