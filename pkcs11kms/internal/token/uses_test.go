package token_test

import (
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// otherUses are what an HMAC key could be used for besides.
var otherUses = []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE}

// Another client sees that an HMAC key is for MACs and nothing else, which SoftHSM does not do by itself.
func TestHMACKeysAreForMACsAlone(t *testing.T) {
	tok := newToken(t)
	key := newKey(t, tok)
	c, s := bareSession(t, tok)
	require.NoError(t, c.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, key.ID())}))
	found, _, err := c.FindObjects(s, 2)
	require.NoError(t, err)
	require.NoError(t, c.FindObjectsFinal(s))
	require.Len(t, found, 1)
	for _, use := range otherUses {
		value, err := c.GetAttributeValue(s, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(use, nil)})
		require.NoError(t, err)
		require.Equal(t, []byte{0}, value[0].Value, "0x%X", use)
	}
}

// A token that cannot be told some of it is told the rest.
func TestTokensThatRefuseToBeToldUses(t *testing.T) {
	for name, refused := range map[string]map[uint]bool{
		"none":    {},
		"the two": {pkcs11.CKA_ENCRYPT: true, pkcs11.CKA_DECRYPT: true},
		"derive":  {pkcs11.CKA_DERIVE: true},
		"all": {pkcs11.CKA_ENCRYPT: true, pkcs11.CKA_DECRYPT: true, pkcs11.CKA_WRAP: true, pkcs11.CKA_UNWRAP: true,
			pkcs11.CKA_DERIVE: true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _ := newConfig(t)
			f := newFaulty(&cfg)
			f.refuseAll = refused
			tok := open(t, cfg)
			for _, h := range token.Hashes() {
				require.NoError(t, tok.Capabilities().For(h).Err())
			}
			_, err := tok.MAC(t.Context(), newKey(t, tok), []byte("message"))
			require.NoError(t, err)
			for _, use := range otherUses {
				told := attributeOf(f, use)
				if refused[use] {
					require.Nil(t, told, "0x%X", use)
					continue
				}
				require.Equal(t, []byte{0}, told, "0x%X", use)
			}
		})
	}
}

// A token that cannot be told that a private key is not for signatures with recovery makes key pairs all the same, and is asked once.
func TestTokenThatDoesNotKnowSignRecover(t *testing.T) {
	tok, f := openFaulty(t)
	f.set(func() { f.refuseAll = map[uint]bool{pkcs11.CKA_SIGN_RECOVER: true} })
	for _, calls := range []int{2, 1} {
		before := f.count("C_GenerateKeyPair")
		newPair(t, tok, pubkey.P256)
		require.Equal(t, calls, f.count("C_GenerateKeyPair")-before)
		require.NotContains(t, f.private, pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false))
	}
	require.NoError(t, tok.PairGap(pubkey.P256))
}

// A refusal that has another reason changes nothing: the next pair is told so again.
func TestRefusedPairsAreNoReasonToAllowMore(t *testing.T) {
	tok, f := openFaulty(t)
	f.fail("C_GenerateKeyPair", 2, pkcs11.CKR_TEMPLATE_INCONSISTENT)
	_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.RSA2048, randomBytes(t, 16), "test pair")
	require.Error(t, err)
	newPair(t, tok, pubkey.P256)
	require.Contains(t, f.private, pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false))
}
