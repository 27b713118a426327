package faultp11_test

import (
	"crypto/sha256"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOtherCalls: functions that tests of HMACs and signatures do not come to get their arguments too, also where the module has handles of
// its own.
func TestOtherCalls(t *testing.T) {
	for _, handles := range []string{"off", "process"} {
		t.Run(handles, func(t *testing.T) {
			h := newIdleHost(t)
			h.m.Do("handles " + handles)
			h.initialize()
			s := h.login()
			yes := func(attribute uint) *pkcs11.Attribute { return pkcs11.NewAttribute(attribute, true) }
			aes, err := h.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), yes(pkcs11.CKA_ENCRYPT), yes(pkcs11.CKA_DECRYPT), yes(pkcs11.CKA_WRAP),
				yes(pkcs11.CKA_UNWRAP), yes(pkcs11.CKA_EXTRACTABLE)})
			require.NoError(t, err)

			cbc := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_CBC_PAD, make([]byte, 16))}
			require.NoError(t, h.EncryptInit(s, cbc, aes))
			secret, err := h.Encrypt(s, []byte("message"))
			require.NoError(t, err)
			require.NoError(t, h.DecryptInit(s, cbc, aes))
			clear, err := h.Decrypt(s, secret)
			require.NoError(t, err)
			assert.Equal(t, "message", string(clear))

			wrap := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil)}
			other, err := h.CreateObject(s, []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
				pkcs11.NewAttribute(pkcs11.CKA_VALUE, make([]byte, 32)), yes(pkcs11.CKA_EXTRACTABLE), yes(pkcs11.CKA_SIGN)})
			require.NoError(t, err)
			wrapped, err := h.WrapKey(s, wrap, aes, other)
			require.NoError(t, err)
			again, err := h.UnwrapKey(s, wrap, aes, wrapped, []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
				yes(pkcs11.CKA_SIGN)})
			require.NoError(t, err)
			mac := h.mustMAC(s, other, "message")
			assert.Equal(t, mac, h.mustMAC(s, again, "message"))
			require.NoError(t, h.VerifyInit(s, hmac, again))
			require.NoError(t, h.Verify(s, []byte("message"), []byte(mac)))

			copied, err := h.CopyObject(s, other, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, "copy")})
			require.NoError(t, err)
			require.NoError(t, h.SetAttributeValue(s, copied, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, "copy")}))
			assert.Equal(t, []pkcs11.ObjectHandle{copied}, h.find(s, "copy"))
			assert.Equal(t, mac, h.mustMAC(s, copied, "message"))

			require.NoError(t, h.DigestInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_SHA256, nil)}))
			digest, err := h.Digest(s, []byte("message"))
			require.NoError(t, err)
			want := sha256.Sum256([]byte("message"))
			assert.Equal(t, want[:], digest)
			require.NoError(t, h.SignInit(s, hmac, other))
			require.NoError(t, h.SignUpdate(s, []byte("mess")))
			require.NoError(t, h.SignUpdate(s, []byte("age")))
			parts, err := h.SignFinal(s)
			require.NoError(t, err)
			assert.Equal(t, mac, string(parts))
			assert.Empty(t, h.m.Violations())
		})
	}
}
