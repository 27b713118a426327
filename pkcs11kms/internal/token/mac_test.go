package token_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// contexts are the two ways to call: on the caller's goroutine and on the session's.
func contexts(t *testing.T) map[string]context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return map[string]context.Context{"endless": context.Background(), "can end": ctx}
}

func TestMACEqualsGo(t *testing.T) {
	tok := newToken(t)
	for name, ctx := range contexts(t) {
		for _, h := range token.Hashes() {
			t.Run(name+" "+h.String(), func(t *testing.T) {
				value, id := randomBytes(t, h.KeyBytes()), randomBytes(t, 16)
				_, err := tok.ImportHMACKey(ctx, h, id, "imported", value)
				require.NoError(t, err)
				key := tok.HMACKey(h, id)
				for _, n := range []int{1, 2, 31, 32, 63, 64, 65, 127, 128, 129, 1000, 4095, 4096} {
					message := randomBytes(t, n)
					tag, err := tok.MAC(ctx, key, message)
					require.NoError(t, err)
					requireSame(t, goMAC(h, value, message), tag, "MAC")
				}
			})
		}
	}
}

// vectors are those of testdata/rfc4231.json.
type vectors struct {
	Source string
	Cases  []struct {
		Case      int
		Key, Data string
		Tags      map[string]string
	}
}

// TestRFC4231 runs every case whose key SoftHSM takes: it wants a key as long as the hash's output, which cases 6 and 7
// have. The refusal of the others is asserted, so that a change of the module is noticed.
func TestRFC4231(t *testing.T) {
	raw, err := os.ReadFile("testdata/rfc4231.json")
	require.NoError(t, err)
	var all vectors
	require.NoError(t, json.Unmarshal(raw, &all))
	require.Len(t, all.Cases, 7)
	tok := newToken(t)
	for _, c := range all.Cases {
		value, data := unhex(t, c.Key), unhex(t, c.Data)
		for _, h := range token.Hashes() {
			t.Run(fmt.Sprintf("%d %v", c.Case, h), func(t *testing.T) {
				key, err := tok.ImportHMACKey(t.Context(), h, randomBytes(t, 16), "vector", value)
				require.NoError(t, err)
				tag, err := tok.MAC(t.Context(), key, data)
				if len(value) < h.TagBytes() {
					var e *token.Error
					require.ErrorAs(t, err, &e)
					assert.Equal(t, "C_SignInit: CKR_KEY_SIZE_RANGE", e.Error())
					assert.True(t, e.Unsupported())
					return
				}
				require.NoError(t, err)
				assert.Equal(t, c.Tags[h.String()], hex.EncodeToString(tag))
			})
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func TestGeneratedKeySigns(t *testing.T) {
	tok := newToken(t)
	for _, h := range token.Hashes() {
		key, err := tok.GenerateHMACKey(t.Context(), h, randomBytes(t, 16), "generated")
		require.NoError(t, err)
		assert.Equal(t, h, key.Hash())
		one, err := tok.MAC(t.Context(), key, []byte("message"))
		require.NoError(t, err)
		assert.Len(t, one, h.TagBytes())
		again, err := tok.MAC(context.Background(), tok.HMACKey(h, key.ID()), []byte("message"))
		require.NoError(t, err)
		requireSame(t, one, again, "MAC of a key that was found")
		other, err := tok.MAC(t.Context(), key, []byte("massage"))
		require.NoError(t, err)
		assert.NotEqual(t, one, other)
	}
}

func TestKeyIsRestrictedToItsMechanism(t *testing.T) {
	tok := newToken(t)
	key, err := tok.GenerateHMACKey(t.Context(), token.SHA512, randomBytes(t, 16), "restricted")
	require.NoError(t, err)
	_, err = tok.MAC(t.Context(), tok.HMACKey(token.SHA256, key.ID()), []byte("message"))
	var e *token.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, "C_SignInit", e.Func)
	assert.True(t, e.Unsupported())
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	assert.NoError(t, err, "the session is of use after the refusal")
	assert.Equal(t, 1, tok.Stats().Open)
}

func TestMACOfManyGoroutines(t *testing.T) {
	for name, ctx := range contexts(t) {
		t.Run(name, func(t *testing.T) {
			tok := newToken(t)
			value, id := randomBytes(t, 32), randomBytes(t, 16)
			_, err := tok.ImportHMACKey(ctx, token.SHA256, id, "shared", value)
			require.NoError(t, err)
			key := tok.HMACKey(token.SHA256, id)
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					for j := range 50 {
						message := fmt.Appendf(nil, "message %d %d", i, j)
						tag, err := tok.MAC(ctx, key, message)
						if err != nil || !assert.ObjectsAreEqual(goMAC(token.SHA256, value, message), tag) {
							t.Errorf("MAC of message %d %d is wrong: %v", i, j, err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestHandleIsFoundOnce(t *testing.T) {
	tok, f := openFaulty(t)
	made := newKey(t, tok)
	searches := f.count("C_FindObjectsInit")
	for range 5 {
		_, err := tok.MAC(t.Context(), made, []byte("message"))
		require.NoError(t, err)
	}
	assert.Equal(t, searches, f.count("C_FindObjectsInit"), "after generating, nothing is searched")
	found := tok.HMACKey(token.SHA256, made.ID())
	for range 5 {
		_, err := tok.MAC(t.Context(), found, []byte("message"))
		require.NoError(t, err)
	}
	assert.Equal(t, searches+1, f.count("C_FindObjectsInit"))
}

// TestStaleHandle plays what both of the values mean: the object is there under another handle.
func TestStaleHandle(t *testing.T) {
	tok, f := openFaulty(t, noCopies)
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	for _, function := range []string{"C_SignInit", "C_Sign"} {
		for _, rv := range []uint{pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID} {
			signs, finds := f.count(function), f.count("C_FindObjectsInit")
			f.fail(function, 1, rv)
			got, err := tok.MAC(t.Context(), key, []byte("message"))
			require.NoErrorf(t, err, "%s 0x%X", function, rv)
			requireSame(t, want, got, "MAC")
			assert.Equal(t, finds+1, f.count("C_FindObjectsInit"))
			assert.Equal(t, signs+2, f.count(function))
		}
	}
	f.fail("C_SignInit", 5, pkcs11.CKR_KEY_HANDLE_INVALID)
	signs := f.count("C_SignInit")
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	requireRV(t, err, "C_SignInit", pkcs11.CKR_KEY_HANDLE_INVALID)
	assert.Equal(t, signs+2, f.count("C_SignInit"), "repeated once, not for ever")
	f.on("C_SignInit", nil)
}

func TestDestroyedKeyIsMissing(t *testing.T) {
	cfg, _ := newConfig(t)
	tok := open(t, cfg)
	for name, destroy := range map[string]func(id []byte){
		"by another session": func(id []byte) {
			require.NoError(t, open(t, cfg).DestroyKey(t.Context(), id, "test key"))
		},
		"by another process": func(id []byte) {
			runChild(t, child(t, "destroy", cfg, childKey+"="+hex.EncodeToString(id)))
		},
	} {
		key := newKey(t, tok)
		_, err := tok.MAC(t.Context(), key, []byte("message"))
		require.NoError(t, err)
		destroy(key.ID())
		for range 2 {
			_, err = tok.MAC(t.Context(), key, []byte("message"))
			assert.ErrorIs(t, err, token.ErrKeyMissing, name)
		}
		_, err = tok.NewStream(t.Context(), key)
		assert.ErrorIs(t, err, token.ErrKeyMissing, name)
	}
}

func TestForeignKeyIsRefused(t *testing.T) {
	one, other := newToken(t), newToken(t)
	key := newKey(t, other)
	_, err := one.MAC(t.Context(), key, []byte("message"))
	assert.EqualError(t, err, "using a key: it is not a key of this token")
	_, err = one.MAC(t.Context(), nil, []byte("message"))
	assert.EqualError(t, err, "using a key: it is not a key of this token")
	_, err = one.NewStream(t.Context(), key)
	assert.EqualError(t, err, "using a key: it is not a key of this token")
	_, err = one.MAC(t.Context(), one.HMACKey(token.Hash(0), key.ID()), []byte("message"))
	assert.ErrorContains(t, err, "Hash(0) is no hash function")
	for _, foreign := range []*token.Key{key, nil} {
		assert.EqualError(t, one.HealthyMAC(t.Context(), foreign), "using a key: it is not a key of this token")
	}
	for _, foreign := range []*token.Pair{other.KeyPair(pubkey.P256, key.ID()), nil} {
		err = one.HealthySignature(t.Context(), foreign, pubkey.ECDSASHA256)
		assert.EqualError(t, err, "using a key: it is not a key of this token")
	}
}

func TestRandom(t *testing.T) {
	tok := newToken(t)
	a, err := tok.Random(t.Context(), 32)
	require.NoError(t, err)
	b, err := tok.Random(t.Context(), 32)
	require.NoError(t, err)
	assert.Len(t, a, 32)
	assert.NotEqual(t, a, b)
	none, err := tok.Random(t.Context(), 0)
	require.NoError(t, err)
	assert.Empty(t, none)
}

func TestTagOfAWrongLengthIsRefused(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	st, err := tok.NewStream(t.Context(), key)
	require.NoError(t, err)
	f.mu.Lock()
	f.shortTag = true
	f.mu.Unlock()
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	assert.ErrorContains(t, err, "31 bytes instead of 32")
	_, err = st.Sum()
	assert.ErrorContains(t, err, "31 bytes instead of 32")
}

func TestShortRandomIsRefused(t *testing.T) {
	tok, f := openFaulty(t)
	random, err := tok.Random(t.Context(), 32)
	require.NoError(t, err)
	assert.Len(t, random, 32)
	f.set(func() { f.shortTag = true })
	random, err = tok.Random(t.Context(), 32)
	assert.ErrorIs(t, err, token.ErrMalformed)
	assert.Empty(t, random)
}
