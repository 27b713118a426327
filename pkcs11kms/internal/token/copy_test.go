package token_test

import (
	"context"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// useTwice uses a key until there can be a copy of it, and returns its MAC.
func useTwice(t *testing.T, tok *token.Token, key *token.Key) []byte {
	t.Helper()
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	for range 2 {
		got, err := tok.MAC(t.Context(), key, []byte("message"))
		require.NoError(t, err)
		requireSame(t, want, got, "MAC")
	}
	return want
}

// Keys that are used again are copied, once, and the answers are the same.
func TestKeysAreCopiedAtTheSecondUse(t *testing.T) {
	tok, m := openThrough(t)
	copied := func() int { return m.Counters()["C_CopyObject"].Calls }
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	require.Zero(t, copied())
	requireSame(t, want, useTwice(t, tok, key), "MAC")
	require.Equal(t, 1, copied())
	pair, public := newPair(t, tok, pubkey.P256)
	for range 3 {
		signature, err := tok.Sign(t.Context(), pair, pubkey.ECDSASHA256, []byte("message"))
		require.NoError(t, err)
		require.NoError(t, public.Verify(pubkey.ECDSASHA256, pubkey.ECDSASHA256.Digest([]byte("message")), signature))
	}
	require.Equal(t, 2, copied())
	require.Equal(t, 2, tok.Stats().Copies)
}

// Nothing is copied where the operator says no.
func TestNoCopies(t *testing.T) {
	tok, m := openThrough(t, func(cfg *token.Config) { cfg.NoCopies = true })
	useTwice(t, tok, newKey(t, tok))
	require.Zero(t, m.Counters()["C_CopyObject"].Calls)
}

// A token that makes no copies serves all the same, and is not asked again.
func TestTokenThatMakesNoCopies(t *testing.T) {
	tok, m := openThrough(t)
	m.Do("on C_CopyObject fail CKR_FUNCTION_NOT_SUPPORTED")
	for range 2 {
		useTwice(t, tok, newKey(t, tok))
	}
	require.Equal(t, 1, m.Counters()["C_CopyObject"].Calls)
	require.Zero(t, tok.Stats().Copies)
}

// A copy that the token then does not use is destroyed, and the key itself is used.
func TestCopyThatIsOfNoUse(t *testing.T) {
	tok, m := openThrough(t)
	key := newKey(t, tok)
	_, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	m.Do("on C_SignInit fail CKR_KEY_FUNCTION_NOT_PERMITTED times=1")
	useTwice(t, tok, key)
	require.Equal(t, 1, m.Counters()["C_CopyObject"].Calls)
	require.Zero(t, tok.Stats().Copies)
	require.Zero(t, sessionObjects(t, tok))
}

// sessionObjects counts the session objects that the process sees.
func sessionObjects(t *testing.T, tok *token.Token) int {
	t.Helper()
	n, err := tok.SessionObjects(t.Context())
	require.NoError(t, err)
	return n
}

// A key that another process destroys is not used for longer than a second, and its copy goes with it.
func TestCopyOfAKeyThatIsDestroyed(t *testing.T) {
	cfg, _ := newConfig(t)
	tok := open(t, cfg)
	key := newKey(t, tok)
	useTwice(t, tok, key)
	require.Equal(t, 1, sessionObjects(t, tok))
	cmd := child(t, "destroy", cfg, childKey+"="+hex.EncodeToString(key.ID()))
	runChild(t, cmd)
	destroyed := time.Now()
	var late time.Time
	require.Eventually(t, func() bool {
		began := time.Now()
		_, err := tok.MAC(t.Context(), key, []byte("message"))
		if err == nil {
			late = began
			return false
		}
		require.ErrorIs(t, err, token.ErrKeyMissing)
		return true
	}, patience, tick)
	require.Less(t, late.Sub(destroyed), 1100*time.Millisecond)
	require.Eventually(t, func() bool { return sessionObjects(t, tok) == 0 }, patience, tick)
}

// A key that is destroyed here takes its copy along at once: nobody is left who would come upon it.
func TestCopyOfAKeyThatIsDestroyedHere(t *testing.T) {
	for name, destroy := range map[string]func(*token.Token, []byte) error{
		"by its label": func(tok *token.Token, id []byte) error { return tok.DestroyKey(t.Context(), id, "test key") },
		"by its id":    func(tok *token.Token, id []byte) error { return tok.DestroyObject(t.Context(), id) },
	} {
		t.Run(name, func(t *testing.T) {
			tok, _ := openThrough(t)
			key, other := newKey(t, tok), newKey(t, tok)
			useTwice(t, tok, key)
			useTwice(t, tok, other)
			require.Equal(t, 2, sessionObjects(t, tok))
			require.NoError(t, destroy(tok, key.ID()))
			requireCopies(t, tok, 1)
			_, err := tok.MAC(t.Context(), key, []byte("message"))
			require.ErrorIs(t, err, token.ErrKeyMissing)
		})
	}
}

// So does a key pair.
func TestCopyOfAPairThatIsDestroyedHere(t *testing.T) {
	tok, _ := openThrough(t)
	pair, _ := newPair(t, tok, pubkey.P256)
	for range 3 {
		_, err := tok.Sign(t.Context(), pair, pubkey.ECDSASHA256, []byte("message"))
		require.NoError(t, err)
	}
	require.Equal(t, 1, sessionObjects(t, tok))
	require.NoError(t, tok.DestroyKeyPair(t.Context(), pair.ID(), "test pair"))
	requireCopies(t, tok, 0)
}

// requireCopies waits until the token has so many copies, and knows of them.
func requireCopies(t *testing.T, tok *token.Token, want int) {
	t.Helper()
	require.Equal(t, want, tok.Stats().Copies)
	require.Eventually(t, func() bool { return sessionObjects(t, tok) == want }, patience, tick)
}

// A key that is destroyed while it is copied leaves no copy.
func TestCopyOfAKeyThatIsDestroyedMeanwhile(t *testing.T) {
	tok, m := openThrough(t)
	key := newKey(t, tok)
	_, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	m.Do("on C_GetAttributeValue hang times=1") // which looks at the copy
	copying := sign(context.Background(), tok, key)
	m.Await("C_GetAttributeValue", func(c faultp11.Counters) bool { return c.Hanging == 1 })
	require.Equal(t, 1, m.Counters()["C_CopyObject"].Calls)
	require.NoError(t, tok.DestroyKey(t.Context(), key.ID(), "test key"))
	m.Do("release")
	<-copying // an answer from before, or that the key is missing
	requireCopies(t, tok, 0)
}

// A caller that has found the key's object late replaces what others have found and copied since: nobody would come upon that copy again.
func TestCopyOfAHandleThatIsReplaced(t *testing.T) {
	tok, m := openThrough(t)
	key := tok.HMACKey(token.SHA256, newKey(t, tok).ID())
	m.Do("on C_FindObjects hang times=1")
	late := sign(context.Background(), tok, key)
	m.Await("C_FindObjects", func(c faultp11.Counters) bool { return c.Hanging == 1 })
	useTwice(t, tok, key)
	require.Equal(t, 1, sessionObjects(t, tok))
	m.Do("release")
	require.NoError(t, <-late)
	requireCopies(t, tok, 0)
}

// A copy is destroyed when it is dropped, but not under a call that uses it.
func TestCopyThatIsDroppedWhileItIsUsed(t *testing.T) {
	tok, m := openThrough(t, timeout(time.Second))
	key := newKey(t, tok)
	useTwice(t, tok, key)
	m.Do("on C_Sign hang times=1")
	_, err := tok.MAC(t.Context(), key, []byte("message"))
	hung, ok := errors.AsType[*token.HungError](err)
	require.True(t, ok, "%v", err)
	destroyed := m.Counters()["C_DestroyObject"].Calls
	key.DropCopy()
	other := newKey(t, tok)
	useTwice(t, tok, other) // and its copy takes no handle of one that is in use
	require.Equal(t, destroyed, m.Counters()["C_DestroyObject"].Calls)
	require.Equal(t, 2, sessionObjects(t, tok))
	m.Do("release")
	<-hung.Done()
	require.Eventually(t, func() bool { return sessionObjects(t, tok) == 1 }, patience, tick)
	other.DropCopy()
	require.Eventually(t, func() bool { return sessionObjects(t, tok) == 0 }, patience, tick)
	require.Zero(t, tok.Stats().Copies)
	useTwice(t, tok, key)
	require.Equal(t, 1, tok.Stats().Copies)
}

// The copy of a key that nobody may use any more is destroyed at once, also while callers have all sessions and others wait for one.
func TestCopyIsDestroyedBesideTheCallers(t *testing.T) {
	tok, m := openThrough(t, sessions(1))
	key := newKey(t, tok)
	useTwice(t, tok, key)
	require.Equal(t, 1, tok.Stats().Copies)
	st, err := tok.NewStream(t.Context(), key)
	require.NoError(t, err)
	before := m.Counters()["C_DestroyObject"].Calls
	key.DropCopy()
	m.Await("C_DestroyObject", func(c faultp11.Counters) bool { return c.Calls == before+1 })
	require.Zero(t, tok.Stats().Waiting, "it does not stand in the queue of the callers")
	require.NoError(t, st.Close())
}

// Copies are gone with the connection, or with the session that made them, and are made anew.
func TestCopiesAfterALoss(t *testing.T) {
	for _, loss := range []string{"lose sessions", "lose device"} {
		t.Run(loss, func(t *testing.T) {
			tok, m := openThrough(t)
			key := newKey(t, tok)
			want := useTwice(t, tok, key)
			m.Do(loss)
			requireBack(t, tok, key, want)
			useTwice(t, tok, key)
			require.Equal(t, 2, m.Counters()["C_CopyObject"].Calls)
			require.Equal(t, 1, tok.Stats().Copies)
		})
	}
}

// A session that took its copies along costs no find and no wrong answer.
func TestCopiesThatHaveGoneWithTheirSession(t *testing.T) {
	tok, m := openThrough(t)
	key := newKey(t, tok)
	want := useTwice(t, tok, key)
	finds := m.Counters()["C_FindObjectsInit"].Calls
	rule := m.Rule("C_GenerateRandom fail CKR_DEVICE_ERROR times=1") // the session that stays open is replaced
	require.NoError(t, tok.Healthy(t.Context()))
	rule.Remove()
	requireSame(t, want, useTwice(t, tok, key), "MAC")
	require.Equal(t, finds, m.Counters()["C_FindObjectsInit"].Calls)
	require.Equal(t, 2, m.Counters()["C_CopyObject"].Calls)
}

// There are never more copies than the bound; a key that was not used for a while makes room.
func TestCopiesAreBounded(t *testing.T) {
	tok, m := openThrough(t)
	tok.LimitCopies(2, 0)
	for range 4 {
		useTwice(t, tok, newKey(t, tok))
		require.LessOrEqual(t, tok.Stats().Copies, 2)
	}
	require.Equal(t, 4, m.Counters()["C_CopyObject"].Calls)
	require.Eventually(t, func() bool { return sessionObjects(t, tok) == 2 }, patience, tick)
	tok.LimitCopies(2, time.Hour)
	useTwice(t, tok, newKey(t, tok))
	require.Equal(t, 4, m.Counters()["C_CopyObject"].Calls, "all are in use")
}

// otherCopies is a token that makes another key in the place of a copy: with the CKA_ID of the key or without, and with these attributes.
type otherCopies struct {
	token.Module
	named, onToken, sensitive, extractable bool
}

func (m otherCopies) CopyObject(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, _ []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, m.onToken), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, m.sensitive), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, m.extractable),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true)}
	if m.named {
		id, err := m.Module.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, nil)})
		if err != nil {
			return 0, err
		}
		template = append(template, id...)
	}
	return m.Module.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, nil)}, template)
}

// A copy that is another object, stays in the token, or can be read is not used, and is destroyed.
func TestCopiesThatAreNone(t *testing.T) {
	for name, m := range map[string]otherCopies{
		"another object":     {sensitive: true},
		"of the token":       {named: true, onToken: true, sensitive: true},
		"not sensitive":      {named: true},
		"extractable":        {named: true, sensitive: true, extractable: true},
		"nothing of the key": {onToken: true, extractable: true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _ := newConfig(t)
			cfg.SetWrap(func(real token.Module) token.Module {
				m.Module = real
				return m
			})
			tok := open(t, cfg)
			useTwice(t, tok, newKey(t, tok))
			require.Zero(t, tok.Stats().Copies)
			require.Eventually(t, func() bool { return sessionObjects(t, tok) == 0 }, patience, tick)
			objects, err := tok.Objects(t.Context())
			require.NoError(t, err)
			require.Len(t, objects, 1)
			require.NoError(t, tok.Healthy(context.Background()))
		})
	}
}
