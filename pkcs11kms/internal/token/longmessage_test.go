package token_test

import (
	"bytes"
	"sync/atomic"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// A message that the token does not take at once goes to it in parts, and the MAC is the same.
func TestLongMessageInParts(t *testing.T) {
	cfg, m := newConfigThrough(t)
	tok := open(t, cfg)
	key, message := newKey(t, tok), randomBytes(t, 4096)
	want, err := tok.MAC(t.Context(), key, message)
	require.NoError(t, err)
	m.Do("on C_Sign,C_SignUpdate fail CKR_DATA_LEN_RANGE longer=3136")
	got, err := tok.MAC(t.Context(), key, message)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want, got))
	assert.Equal(t, 4, m.Counters()["C_SignUpdate"].Calls)
	longest, err := tok.LongestMessage(t.Context(), key, 4096)
	require.NoError(t, err)
	assert.Equal(t, 4096, longest)
}

// Where parts do not help, the message is refused, shorter ones are taken, and the limit can be found.
func TestMessageTooLong(t *testing.T) {
	cfg, m := newConfigThrough(t)
	tok := open(t, cfg)
	key := newKey(t, tok)
	m.Do("on C_Sign fail CKR_DATA_LEN_RANGE longer=3136")
	m.Do("on C_SignUpdate fail CKR_DATA_LEN_RANGE")
	for range 2 {
		_, err := tok.MAC(t.Context(), key, make([]byte, 3137))
		require.ErrorIs(t, err, token.ErrMessageTooLong)
		_, err = tok.MAC(t.Context(), key, make([]byte, 3136))
		require.NoError(t, err)
	}
	longest, err := tok.LongestMessage(t.Context(), key, 4096)
	require.NoError(t, err)
	assert.Equal(t, 3136, longest)
	require.Eventually(t, func() bool { return tok.Stats().InUse == 0 }, patience, tick)

	stream, err := tok.NewStream(t.Context(), key)
	require.NoError(t, err)
	_, err = stream.Write(make([]byte, 10))
	require.ErrorIs(t, err, token.ErrMessageTooLong)
}

// The answer is about the length of the message only if it stays and a shorter one is taken.
func TestOtherRefusalsAreNotOfTheLength(t *testing.T) {
	cfg, m := newConfigThrough(t)
	tok := open(t, cfg)
	key := newKey(t, tok)
	once := m.Fail("C_Sign", pkcs11.CKR_DATA_LEN_RANGE, "times=1")
	_, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	once.Remove()
	m.Fail("C_Sign", pkcs11.CKR_DATA_LEN_RANGE)
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	requireRV(t, err, "C_Sign", pkcs11.CKR_DATA_LEN_RANGE)
	require.NotErrorIs(t, err, token.ErrMessageTooLong)
	_, err = tok.LongestMessage(t.Context(), key, 4096)
	requireRV(t, err, "C_Sign", pkcs11.CKR_DATA_LEN_RANGE)
}

// unended leaves the operation active when it refuses a message.
type unended struct {
	token.Module
	refusals *atomic.Int64 // counts down
}

func (m unended) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	if m.refusals.Add(-1) >= 0 {
		return nil, pkcs11.Error(pkcs11.CKR_DATA_LEN_RANGE)
	}
	return m.Module.Sign(s, message)
}

// A refused C_Sign can leave its operation active.
func TestMessageTooLongThatLeavesItsOperationActive(t *testing.T) {
	cfg, _ := newConfig(t)
	var refusals atomic.Int64
	cfg.SetWrap(func(m token.Module) token.Module { return unended{m, &refusals} })
	tok := open(t, cfg)
	key, message := newKey(t, tok), randomBytes(t, 4096)
	want, err := tok.MAC(t.Context(), key, message)
	require.NoError(t, err)
	refusals.Store(2)
	got, err := tok.MAC(t.Context(), key, message)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want, got))
}

// Signatures of digests know no long messages; those of messages do.
func TestSignaturesOfLongMessages(t *testing.T) {
	cfg, m := newConfigThrough(t)
	tok := open(t, cfg)
	edwards, _ := newPair(t, tok, pubkey.Edwards25519)
	curve, _ := newPair(t, tok, pubkey.P256)
	m.Do("on C_Sign fail CKR_DATA_LEN_RANGE longer=31")
	_, err := tok.Sign(t.Context(), edwards, pubkey.Ed25519SHA512, make([]byte, 32))
	require.ErrorIs(t, err, token.ErrMessageTooLong)
	_, err = tok.Sign(t.Context(), edwards, pubkey.Ed25519SHA512, make([]byte, 31))
	require.NoError(t, err)
	_, err = tok.Sign(t.Context(), curve, pubkey.ECDSASHA256, make([]byte, 4096))
	requireRV(t, err, "C_Sign", pkcs11.CKR_DATA_LEN_RANGE)
	require.NotErrorIs(t, err, token.ErrMessageTooLong)
	m.Clear()
	m.Do("on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_RSA_PKCS")
	m.Do("on C_Sign fail CKR_DATA_LEN_RANGE longer=100")
	rsa, _ := newPair(t, tok, pubkey.RSA2048)
	_, err = tok.Sign(t.Context(), rsa, pubkey.PKCS1SHA384, make([]byte, 101))
	require.ErrorIs(t, err, token.ErrMessageTooLong, "a token that hashes messages itself")
}

// Of a token that signs nothing just now nobody knows how long a message may be.
func TestLongestMessageOfATokenInTrouble(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	f.on("C_Sign", func() error { return pkcs11.Error(pkcs11.CKR_HOST_MEMORY) })
	_, err := tok.LongestMessage(t.Context(), key, 4096)
	requireRV(t, err, "C_Sign", pkcs11.CKR_HOST_MEMORY)
}
