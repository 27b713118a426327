package token_test

import (
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

const noSessionObjects = "on C_GenerateKey,C_GenerateKeyPair fail CKR_ATTRIBUTE_VALUE_INVALID attribute=CKA_TOKEN:00"

// An error that passes while the token is tried says nothing of what it can do.
func TestProbeIsTriedAgain(t *testing.T) {
	for _, function := range []string{"C_GenerateKey", "C_SignInit", "C_Sign", "C_GetAttributeValue"} {
		for _, rv := range []string{"CKR_DEVICE_ERROR", "CKR_HOST_MEMORY", "0x80000001"} {
			// The first calls are for the uses of keys, then for the four hashes, then for the allowed mechanisms.
			for _, skip := range []string{"0", "2", "4", "5"} {
				cfg, m := newConfigThrough(t)
				m.AtStart("on " + function + " fail " + rv + " times=1 skip=" + skip)
				tok := open(t, cfg)
				caps := tok.Capabilities()
				for _, h := range token.Hashes() {
					require.NoError(t, caps.For(h).Err(), "%v: %s %s", h, function, rv)
				}
				assert.True(t, caps.ValueReadRefused, "%s %s %s", function, rv, skip)
				assert.True(t, caps.AllowedMechanisms, "%s %s %s", function, rv, skip)
				newKey(t, tok)
			}
		}
	}
}

// Trouble that lasts as long as Open switches no kind of key off.
func TestTroubleAtOpenIsNoGap(t *testing.T) {
	for _, rule := range []string{"C_GenerateKey,C_GenerateKeyPair fail CKR_HOST_MEMORY", "C_SignInit fail CKR_DEVICE_ERROR",
		"C_Sign fail 0x80000001"} {
		cfg, m := newConfigThrough(t)
		m.AtStart("on " + rule)
		tok := open(t, cfg)
		m.Clear()
		for _, h := range token.Hashes() {
			require.ErrorIs(t, tok.Capabilities().For(h).Err(), token.ErrUntried)
			require.NoError(t, tok.HashGap(h))
			key, err := tok.GenerateHMACKey(t.Context(), h, randomBytes(t, 16), "label")
			require.NoError(t, err)
			_, err = tok.MAC(t.Context(), key, []byte("message"))
			require.NoError(t, err)
		}
		require.NoError(t, tok.PairGap(pubkey.Edwards25519))
		newPair(t, tok, pubkey.Edwards25519)
	}
}

// Where no key ends with its session, the first one of a kind is the trial. One that is of no use is destroyed, and the kind is refused for
// a while.
func TestTheFirstKeyIsTheTrial(t *testing.T) {
	cfg, m := newConfigThrough(t)
	m.AtStart(noSessionObjects)
	m.AtStart("on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA224_HMAC")
	tok := open(t, cfg)
	for _, h := range token.Hashes() {
		require.ErrorIs(t, tok.Capabilities().For(h).Err(), token.ErrUntried)
		require.NoError(t, tok.HashGap(h))
	}
	require.ErrorIs(t, tok.ProbeKeyPair(t.Context(), pubkey.P256), token.ErrUntried)
	require.NoError(t, tok.PairGap(pubkey.Edwards25519))

	make224 := func() error {
		_, err := tok.GenerateHMACKey(t.Context(), token.SHA224, randomBytes(t, 16), "label")
		return err
	}
	var gap *token.GapError
	require.ErrorAs(t, make224(), &gap)
	require.EqualError(t, gap, "HMAC keys with SHA-224, use: C_SignInit: CKR_MECHANISM_INVALID")
	require.Equal(t, error(gap), tok.HashGap(token.SHA224))
	objects, err := tok.Objects(t.Context())
	require.NoError(t, err)
	require.Empty(t, objects)

	signs := func() int { return m.Counters()["C_SignInit"].Calls }
	before := signs()
	newKey(t, tok)
	require.Equal(t, before+1, signs())
	newKey(t, tok)
	require.Equal(t, before+1, signs(), "which is known now")

	tok.AgeGaps(9 * time.Minute)
	require.Error(t, tok.HashGap(token.SHA224))
	tok.AgeGaps(time.Minute)
	require.NoError(t, tok.HashGap(token.SHA224), "it is tried again")
	require.ErrorAs(t, make224(), &gap)
	require.Error(t, tok.HashGap(token.SHA224))
	m.Clear()
	require.NoError(t, make224())
	require.NoError(t, tok.HashGap(token.SHA224))
}

// A refusal of the first key that passes is no gap.
func TestATrialIsMadeTwice(t *testing.T) {
	cfg, m := newConfigThrough(t)
	m.AtStart(noSessionObjects)
	tok := open(t, cfg)
	rule := m.Fail("C_SignInit", pkcs11.CKR_KEY_TYPE_INCONSISTENT, "times=1")
	newKey(t, tok)
	rule.Remove()
	m.Fail("C_Sign", pkcs11.CKR_DEVICE_ERROR, "times=1")
	_, err := tok.GenerateHMACKey(t.Context(), token.SHA512, randomBytes(t, 16), "label")
	requireRV(t, err, "C_Sign", pkcs11.CKR_DEVICE_ERROR)
	require.NoError(t, tok.HashGap(token.SHA512))
	objects, err := tok.Objects(t.Context())
	require.NoError(t, err)
	require.Len(t, objects, 1, "the second is destroyed")
}

// A pair's gap is believed for a while, too.
func TestPairGapsAge(t *testing.T) {
	tok, f := openFaulty(t)
	f.set(func() { f.noMechanism = map[uint]bool{pkcs11.CKM_ECDSA: true} })
	_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P256, randomBytes(t, 16), "label")
	require.Error(t, err)
	require.Error(t, tok.PairGap(pubkey.P256))
	tok.AgeGaps(10 * time.Minute)
	require.NoError(t, tok.PairGap(pubkey.P256))
	f.set(func() { f.noMechanism = nil })
	newPair(t, tok, pubkey.P256)
	require.NoError(t, tok.PairGap(pubkey.P256))
}

// A token that cannot be tried beforehand is told all that it takes of what a key is not for.
func TestFirstKeyOfATokenThatRefusesToBeToldUses(t *testing.T) {
	for refused, told := range map[string]int{"CKA_VERIFY_RECOVER": 5, "CKA_ENCRYPT": 3, "CKA_DERIVE": 0} {
		cfg, m := newConfigThrough(t)
		f := newFaulty(&cfg)
		m.AtStart(noSessionObjects)
		m.AtStart("on C_GenerateKey fail CKR_ATTRIBUTE_TYPE_INVALID attribute=" + refused)
		tok := open(t, cfg)
		for range 2 {
			newKey(t, tok)
			n := 0
			for _, use := range otherUses {
				if attributeOf(f, use) != nil {
					n++
				}
			}
			require.Equal(t, told, n, refused)
		}
	}
}

// A hash function that was missing when the token was opened, and when a key was to be made, is tried again after a while.
func TestGapFoundAtOpenAges(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	f.noMechanism = map[uint]bool{pkcs11.CKM_SHA224_HMAC: true}
	tok := open(t, cfg)
	require.Error(t, tok.HashGap(token.SHA224))
	_, err := tok.GenerateHMACKey(t.Context(), token.SHA224, randomBytes(t, 16), "label")
	require.Error(t, err)
	require.Error(t, tok.HashGap(token.SHA224))
	tok.AgeGaps(10 * time.Minute)
	require.NoError(t, tok.HashGap(token.SHA224))
}
