package token_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// A search takes two milliseconds here, as on a SoftHSM token with some hundred objects; the clock is the bubble's.
func slowSearch(f *faulty) {
	f.on("C_FindObjectsInit", func() error { time.Sleep(2 * time.Millisecond); return nil })
}

// manyKeys makes keys in a token, and returns them as a process knows them that has not used them yet, with the MACs that they make.
func manyKeys(t *testing.T, tok *token.Token, n int) (keys []*token.Key, macs [][]byte) {
	t.Helper()
	for range n {
		key := newKey(t, tok)
		mac, err := tok.MAC(t.Context(), key, []byte("message"))
		require.NoError(t, err)
		keys, macs = append(keys, tok.HMACKey(token.SHA256, key.ID())), append(macs, mac)
	}
	return keys, macs
}

// searchesFor uses keys, one after the other, and returns how many searches that took. Each MAC is the one that is wanted, if any are.
func searchesFor(t *testing.T, tok *token.Token, f *faulty, keys []*token.Key, want ...[]byte) int {
	t.Helper()
	before := f.count("C_FindObjectsInit")
	for i, key := range keys {
		mac, err := tok.MAC(t.Context(), key, []byte("message"))
		require.NoError(t, err)
		if len(want) > 0 {
			require.Equal(t, want[i], mac)
		}
	}
	return f.count("C_FindObjectsInit") - before
}

// TestManyColdKeys: after a few searches that took long, the token's objects are looked at once, and whoever uses a key for the first time
// has no search to wait for. Each MAC is the right key's.
func TestManyColdKeys(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t)
		keys, macs := manyKeys(t, tok, 40)
		slowSearch(f)
		require.Equal(t, 8+1, searchesFor(t, tok, f, keys, macs...), "eight searches and the look")
	})
}

// Searches that take no time are left as they are: a token with few objects is not looked at.
func TestFewColdKeys(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t)
		keys, _ := manyKeys(t, tok, 20)
		require.Equal(t, 20, searchesFor(t, tok, f, keys))
	})
}

// On tokens that are not known to look at every object for each search, the look could take longer than all searches.
func TestOtherTokensAreNotLookedAt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		cfg, _ := newConfig(t)
		f := newFaulty(&cfg)
		f.manufacturer = "Somebody"
		tok := open(t, cfg)
		keys, _ := manyKeys(t, tok, 20)
		slowSearch(f)
		require.Equal(t, 20, searchesFor(t, tok, f, keys))
	})
}

// looked has the objects of a token looked at, by the use of eight keys and one more.
func looked(t *testing.T, tok *token.Token, f *faulty) {
	t.Helper()
	keys, _ := manyKeys(t, tok, 9)
	slowSearch(f)
	require.Equal(t, 9, searchesFor(t, tok, f, keys))
}

// What a look has shown may not be so any more: a key that was destroyed is missing, one that was made again is found, and two with one
// name are ambiguous.
func TestLookIsNotBelieved(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t)
		keys, macs := manyKeys(t, tok, 3)
		twins := tok.HMACKey(token.SHA256, keys[2].ID())
		_, err := tok.GenerateHMACKey(t.Context(), token.SHA256, keys[2].ID(), "twin")
		require.NoError(t, err)
		looked(t, tok, f)

		require.NoError(t, tok.DestroyKey(t.Context(), keys[0].ID(), "test key"))
		_, err = tok.MAC(t.Context(), keys[0], []byte("message"))
		require.ErrorIs(t, err, token.ErrKeyMissing)

		require.NoError(t, tok.DestroyKey(t.Context(), keys[1].ID(), "test key"))
		_, err = tok.GenerateHMACKey(t.Context(), token.SHA256, keys[1].ID(), "made again")
		require.NoError(t, err)
		mac, err := tok.MAC(t.Context(), tok.HMACKey(token.SHA256, keys[1].ID()), []byte("message"))
		require.NoError(t, err)
		require.NotEqual(t, macs[1], mac, "the object that was destroyed")

		_, err = tok.MAC(t.Context(), twins, []byte("message"))
		require.ErrorIs(t, err, token.ErrKeyAmbiguous)
	})
}

// A look is remembered for a minute, and as long there is no other one.
func TestLookIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t)
		keys, _ := manyKeys(t, tok, 20)
		looked(t, tok, f)
		searches := func(from, to int) int { return searchesFor(t, tok, f, keys[from:to]) }
		time.Sleep(time.Minute - time.Second)
		require.Zero(t, searches(0, 1))
		time.Sleep(time.Second)
		require.Equal(t, 8, searches(1, 9))
		require.Equal(t, 1, searches(9, 20), "the second look")
	})
}

// Who comes while another one looks waits for that, up to a second. A look that fails is none, and costs its caller nothing but time.
func TestWhoComesDuringALook(t *testing.T) {
	tok, f := openFaulty(t)
	keys, macs := manyKeys(t, tok, 30)
	slowSearch(f)
	require.Equal(t, 8, searchesFor(t, tok, f, keys[:8]))
	reached, free := f.hang("C_FindObjectsInit")
	var all sync.WaitGroup
	use := func(i int) {
		all.Go(func() {
			mac, err := tok.MAC(t.Context(), keys[i], []byte("message"))
			require.NoError(t, err)
			require.Equal(t, macs[i], mac)
		})
	}
	use(8)
	<-reached
	before := f.count("C_FindObjectsInit")
	for i := 9; i < 20; i++ {
		use(i)
	}
	require.Eventually(t, func() bool { return tok.Stats().InUse == 12 }, time.Minute, time.Millisecond)
	free()
	all.Wait()
	require.Equal(t, before, f.count("C_FindObjectsInit"), "nobody has searched beside the look")
}

// A look goes on when its caller has given up, and is there for the others.
func TestLookOfACallerInAHurry(t *testing.T) {
	tok, f := openFaulty(t)
	keys, macs := manyKeys(t, tok, 20)
	slowSearch(f)
	require.Equal(t, 8, searchesFor(t, tok, f, keys[:8]))
	reached, free := f.hang("C_FindObjectsInit")
	ctx, cancel := context.WithCancel(t.Context())
	call := sign(ctx, tok, keys[8])
	<-reached
	cancel()
	var hung *token.HungError
	require.ErrorAs(t, <-call, &hung)
	free()
	<-hung.Done()
	require.Zero(t, searchesFor(t, tok, f, keys[9:], macs[9:]...))
}

// An object that goes while all are looked at, or that has no CKA_ID, is passed over.
func TestLookPassesOverWhatIsNotThere(t *testing.T) {
	for _, rv := range []uint{pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID} {
		inBubble(t, func(t *testing.T) {
			tok, f := openFaulty(t)
			keys, macs := manyKeys(t, tok, 20)
			before, failed := f.count("C_FindObjectsInit"), 0
			slowSearch(f)
			f.on("C_GetAttributeValue", func() error {
				if f.count("C_FindObjectsInit") == before+9 && failed == 0 {
					failed++
					return pkcs11.Error(rv)
				}
				return nil
			})
			require.LessOrEqual(t, searchesFor(t, tok, f, keys, macs...), 8+1+1, "the look, and one for what it has passed over")
			require.Equal(t, 1, failed)
		})
	}
}

func TestLookThatFails(t *testing.T) {
	for _, function := range []string{"C_FindObjectsInit", "C_GetAttributeValue"} {
		t.Run(function, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				tok, f := openFaulty(t)
				keys, macs := manyKeys(t, tok, 20)
				before, failed := f.count("C_FindObjectsInit"), 0
				slowSearch(f)
				f.on(function, func() error {
					if function == "C_FindObjectsInit" {
						time.Sleep(2 * time.Millisecond)
					}
					if f.count("C_FindObjectsInit") == before+9 && failed == 0 {
						failed++
						return pkcs11.Error(pkcs11.CKR_FUNCTION_FAILED)
					}
					return nil
				})
				require.Equal(t, 20+1, searchesFor(t, tok, f, keys, macs...))
				require.Equal(t, 1, failed)
			})
		})
	}
}
