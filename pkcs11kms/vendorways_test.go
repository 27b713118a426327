package pkcs11kms

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/test/faultp11"
)

// TestVendorsWays: what tokens do otherwise, with keys of each kind made and used by a bridge, and used by the next one.
func TestVendorsWays(t *testing.T) {
	for vendor, ways := range map[string][]string{
		"nShield": {"token manufacturer=nCipher%20Corp.%20Ltd", "hmac-types CKR_TEMPLATE_INCONSISTENT"},
		"AWS CloudHSM": {"on C_OpenSession fail CKR_TOKEN_WRITE_PROTECTED readonly",
			"on C_GenerateKey fail CKR_ATTRIBUTE_TYPE_INVALID attribute=CKA_ENCRYPT",
			"on C_GenerateKey fail CKR_ATTRIBUTE_TYPE_INVALID attribute=CKA_DECRYPT"},
		"wolfPKCS11":   {"token padding=nul"},
		"no generator": {"on C_GenerateRandom,C_SeedRandom fail CKR_RANDOM_NO_RNG", "token flags=-CKF_RNG"},
		"no session objects, no ENCRYPT": {
			"on C_GenerateKey,C_GenerateKeyPair fail CKR_ATTRIBUTE_VALUE_INVALID attribute=CKA_TOKEN:00",
			"on C_GenerateKey fail CKR_ATTRIBUTE_TYPE_INVALID attribute=CKA_ENCRYPT"},
	} {
		t.Run(vendor, func(t *testing.T) {
			cfg, _ := newVendorsConfig(t, ways...)
			c := openClient(t, cfg)
			var keys []*types.KeyMetadata
			for _, spec := range []types.KeySpec{types.KeySpecHmac256, types.KeySpecHmac512, types.KeySpecRsa2048, types.KeySpecEccNistP256} {
				keys = append(keys, mustCreate(t, c, spec))
			}
			for _, client := range []*Client{c, openClient(t, cfg)} {
				for _, key := range keys {
					requireUsable(t, client, key)
				}
				require.NoError(t, client.bridge.Health(t.Context()))
			}
		})
	}
}

// TestErrorsThatPass: as those of an HA group that turns to another member, or of a vendor that has values of its own for it.
func TestErrorsThatPass(t *testing.T) {
	for _, ways := range []string{"C_SignInit,C_Sign,C_FindObjectsInit fail CKR_DEVICE_ERROR", "C_SignInit,C_Sign fail 0x80000383"} {
		t.Run(ways, func(t *testing.T) {
			cfg, m := newVendorsConfig(t)
			c := openClient(t, cfg)
			keys := []*types.KeyMetadata{mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecEccNistP256)}
			for _, every := range []string{"every=4", "every=5"} { // one of them meets C_SignInit, the other C_Sign
				rule := m.Rule(ways + " " + every)
				for _, client := range []*Client{c, openClient(t, cfg)} {
					for _, key := range keys {
						for range 5 {
							requireUsable(t, client, key)
						}
					}
					require.NoError(t, client.bridge.Health(t.Context()))
				}
				rule.Remove()
			}
			for _, function := range []string{"C_SignInit", "C_Sign"} {
				assert.NotZero(t, m.Counters()[function].Faults, function)
			}
		})
	}
}

// TestPINWithAUsersName: as AWS CloudHSM wants it.
func TestPINWithAUsersName(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	m := faultp11.New(t, tok.Module)
	m.AtStart("pin-prefix crypto:")
	tok.Module = m.Path
	file := filepath.Join(t.TempDir(), "pin")
	require.NoError(t, os.WriteFile(file, []byte("crypto:"+tok.PIN()+"\n"), 0o600))
	cfg.Regions = map[string]Region{testRegion: {Token: tok.URI(file)}}
	c := openClient(t, cfg)
	requireUsable(t, c, mustCreate(t, c, types.KeySpecHmac256))
	assert.Equal(t, 1, m.Counters()["C_Login"].Calls)
}

// TestTokenOfFewSessions: more callers than the token has sessions wait for one another, whether or not it tells how many it has.
func TestTokenOfFewSessions(t *testing.T) {
	for name, ways := range map[string][]string{"told": {"sessions 16", "token max-sessions=16"}, "untold": {"sessions 16"}} {
		t.Run(name, func(t *testing.T) {
			cfg, m := newVendorsConfig(t, ways...)
			c := openClient(t, cfg)
			key := mustCreate(t, c, types.KeySpecHmac256)
			slow := m.Rule("C_Sign delay 2ms")
			var callers sync.WaitGroup
			for range 64 {
				callers.Go(func() {
					_, err := generate(t.Context(), c, key.KeyId, []byte("message"))
					assert.NoError(t, err)
				})
			}
			callers.Wait()
			slow.Remove()
			require.NoError(t, c.bridge.Health(t.Context()))
		})
	}
}

// TestTokenWithoutSHA224: the other hashes are served.
func TestTokenWithoutSHA224(t *testing.T) {
	cfg, _ := newVendorsConfig(t, "on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA224_HMAC")
	c := openClient(t, cfg)
	_, err := create(t, c, types.KeySpecHmac224)
	requireAPIError(t, err, "UnsupportedOperationException",
		"KeySpec HMAC_224 is not supported by the token: C_SignInit: CKR_MECHANISM_INVALID.")
	requireUsable(t, c, mustCreate(t, c, types.KeySpecHmac256))
}

// TestTokenWithoutARandomNumberGenerator: trying again would not help.
func TestTokenWithoutARandomNumberGenerator(t *testing.T) {
	cfg, _ := newVendorsConfig(t, "on C_GenerateRandom,C_SeedRandom fail CKR_RANDOM_NO_RNG")
	c := openClient(t, cfg)
	_, err := c.GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(8)})
	requireAPIError(t, err, "UnsupportedOperationException", "The token has no random number generator.")
}
