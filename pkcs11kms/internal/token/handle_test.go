package token_test

import (
	"context"
	"crypto"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Another client destroys a key, a third makes one, and this one uses the new key, whose handle is the old key's: the old key is
// missing then, and is never used by the other's object. So it is when nothing here has found the new key.
func TestReusedHandles(t *testing.T) {
	for _, kind := range []string{"MAC", "stream", "pair"} {
		for _, found := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, new key found here %v", kind, found), func(t *testing.T) {
				tok, r, other := openRecycling(t, "A vendor that is not known")
				old := newKeyOf(t, other, kind)
				require.NoError(t, old.use(tok))
				given := r.last()
				destroy(t, other, kind, old)
				fresh := newKeyOf(t, other, kind)
				if found {
					require.NoError(t, fresh.use(tok))
					require.Equal(t, given, r.last(), "the module gives the handle out again")
				} else {
					r.swap(given, r.realOf(t, fresh.id))
				}
				require.ErrorIs(t, old.use(tok), token.ErrKeyMissing)
				require.Empty(t, len(old.made), "nothing is answered")
				require.NoError(t, fresh.use(tok), "the new key works")
				require.ErrorIs(t, old.use(tok), token.ErrKeyMissing)
			})
		}
	}
}

// Where a stale handle is known to be an error, and is not read at each use, a handle that is found for one key is no other key's any
// more from that moment on.
func TestAHandleIsOneKeys(t *testing.T) {
	for _, kind := range []string{"MAC", "stream", "pair"} {
		for _, here := range []bool{true, false} {
			tok, r, other := openRecycling(t, "")
			old := newKeyOf(t, other, kind)
			require.NoError(t, old.use(tok))
			given := r.last()
			destroyer := map[bool]*token.Token{true: tok, false: other}[here]
			destroy(t, destroyer, kind, old)
			fresh := newKeyOf(t, other, kind)
			require.NoError(t, fresh.use(tok))
			require.Equal(t, given, r.last())
			require.ErrorIs(t, old.use(tok), token.ErrKeyMissing, "%s, destroyed here %v", kind, here)
			require.NoError(t, fresh.use(tok))
		}
	}
}

// What refuses the work of a key may be another kind of object that has its handle now: the key is looked for then, too.
func TestReusedHandleOfAnotherKind(t *testing.T) {
	for kind, others := range map[string]string{"MAC": "pair", "stream": "pair", "pair": "MAC"} {
		tok, r, other := openRecycling(t, "A vendor that is not known")
		k, another := newKeyOf(t, other, kind), newKeyOf(t, other, others)
		require.NoError(t, k.use(tok))
		given := r.last()
		r.swap(given, r.realOf(t, another.id))
		require.NoError(t, k.use(tok), kind)
		destroy(t, other, kind, k)
		r.swap(r.last(), r.realOf(t, another.id))
		require.ErrorIs(t, k.use(tok), token.ErrKeyMissing, kind)
	}
}

// The handle of a key that was destroyed because its caller had gone is nobody's: the next key that gets it need not be looked for.
func TestHandleOfAKeyOfALostCaller(t *testing.T) {
	cfg, _ := newConfig(t)
	f, r := newFaulty(&cfg), &recycling{}
	cfg.SetWrap(func(m token.Module) token.Module {
		f.Module, r.Module = m, f
		return r
	})
	tok := open(t, cfg)
	for _, kind := range []string{"MAC", "pair"} {
		function := map[string]string{"MAC": "C_GenerateKey", "pair": "C_GenerateKeyPair"}[kind]
		reached, free := f.hang(function)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			if kind == "MAC" {
				_, err := tok.GenerateHMACKey(ctx, token.SHA256, []byte("left"), "left")
				done <- err
				return
			}
			_, _, err := tok.GenerateKeyPair(ctx, pubkey.P256, []byte("left"), "left")
			done <- err
		}()
		<-reached
		cancel()
		var hung *token.HungError
		require.ErrorAs(t, <-done, &hung)
		free()
		<-hung.Done()
		var use func() error
		if kind == "MAC" {
			key := newKey(t, tok)
			use = func() error { _, err := tok.MAC(t.Context(), key, []byte("message")); return err }
		} else {
			pair, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P256, []byte("pair"), "pair")
			require.NoError(t, err)
			a := pubkey.Algorithm{Scheme: pubkey.ECDSA, Hash: crypto.SHA256}
			use = func() error { _, err := tok.Sign(t.Context(), pair, a, []byte("message")); return err }
		}
		before := f.count("C_FindObjectsInit")
		require.NoError(t, use())
		require.Equal(t, before, f.count("C_FindObjectsInit"), kind)
	}
}

// A module may look for the key of a stream by its handle again, at each part: the end is confirmed as the beginning is.
func TestEndOfAStreamIsConfirmed(t *testing.T) {
	tok, r, other := openRecycling(t, "A vendor that is not known")
	k, another := newKeyOf(t, other, "stream"), newKeyOf(t, other, "stream")
	begin := func() *token.Stream {
		s, err := tok.NewStream(t.Context(), tok.HMACKey(token.SHA256, k.id))
		require.NoError(t, err)
		_, err = s.Write([]byte("message"))
		require.NoError(t, err)
		return s
	}
	s := begin()
	_, err := s.Sum()
	require.NoError(t, err)
	theirs := r.realOf(t, another.id)
	s = begin()
	r.swap(r.last(), theirs)
	for range 2 {
		tag, err := s.Sum()
		require.ErrorContains(t, err, "its handle has become another object's")
		require.Zero(t, len(tag))
	}
	require.NoError(t, k.use(tok))
}

// A key that moved to another handle, while its handle became another key's, is found again.
func TestReusedHandleOfAKeyThatIsThere(t *testing.T) {
	for _, kind := range []string{"MAC", "stream", "pair"} {
		tok, r, other := openRecycling(t, "A vendor that is not known")
		k, another := newKeyOf(t, other, kind), newKeyOf(t, other, kind)
		require.NoError(t, k.use(tok))
		want := k.made
		r.swap(r.last(), r.realOf(t, another.id))
		r.init = 0
		require.NoError(t, k.use(tok), kind)
		require.Equal(t, 2, r.init, "a session on which another key's MAC was begun is not used again")
		if kind != "pair" {
			requireSame(t, want, k.made, kind)
		}
	}
}

// Of two keys with one handle neither keeps it: both are looked for anew.
func TestBothKeysOfOneHandleAreLookedForAnew(t *testing.T) {
	tok, r, other := openRecycling(t, "")
	old := newKeyOf(t, other, "MAC")
	require.NoError(t, old.use(tok))
	destroy(t, other, "MAC", old)
	fresh := newKeyOf(t, other, "MAC")
	for _, finds := range []int{1, 1, 0} { // found, and dropped since the old key holds the handle; found again; known
		before := r.searched()
		require.NoError(t, fresh.use(tok))
		require.Equal(t, finds, r.searched()-before)
	}
}
