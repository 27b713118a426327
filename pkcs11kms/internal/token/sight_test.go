package token_test

import (
	"context"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// directory returns where SoftHSM keeps the files of a token.
func directory(t *testing.T, tok softhsm.TestToken) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(filepath.Dir(tok.ConfigFile), "tokens", "*"))
	require.NoError(t, err)
	for _, dir := range all {
		if strings.HasSuffix(strings.ReplaceAll(dir, "-", ""), tok.Serial) {
			return dir
		}
	}
	t.Fatalf("no directory of token %s among %v", tok.Serial, all)
	return ""
}

// fileOf returns the file of the one object in a token's directory.
func fileOf(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.object"))
	require.NoError(t, err)
	files = slices.DeleteFunc(files, func(file string) bool { return filepath.Base(file) == "token.object" })
	require.Len(t, files, 1)
	return files[0]
}

// moveAway moves a directory until the returned function brings it back.
func moveAway(t *testing.T, dir string) (back func()) {
	t.Helper()
	require.NoError(t, os.Rename(dir, dir+".away"))
	return func() { require.NoError(t, os.Rename(dir+".away", dir)) }
}

// loseSight makes the module lose sight of the objects of a token: its directory was away when a key was used, and is back.
func loseSight(t *testing.T, tok *token.Token, key *token.Key, dir string) {
	t.Helper()
	back := moveAway(t, dir)
	_, err := tok.MAC(t.Context(), key, []byte("message"))
	require.ErrorIs(t, err, token.ErrGone)
	back()
}

// useUpDescriptors lets nobody in the process open a file until the returned function is called.
func useUpDescriptors(t *testing.T) (free func()) {
	t.Helper()
	var before unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}))
	restore := func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before)) }
	t.Cleanup(restore)
	_, err := os.Open(os.DevNull)
	require.ErrorIs(t, err, unix.EMFILE)
	return restore
}

// openWatched opens a token of its own whose calls are counted, and says where its files are.
func openWatched(t *testing.T) (tok *token.Token, f *faulty, dir string) {
	t.Helper()
	cfg, made := newConfig(t)
	f = newFaulty(&cfg)
	return open(t, cfg), f, directory(t, made)
}

// uses are what a caller can want of a token that has a key and a pair. Each must come back by itself, whichever is first.
func uses(key *token.Key, pair *token.Pair) map[string]func(context.Context, *token.Token) error {
	es256 := pubkey.Algorithm{Scheme: pubkey.ECDSA, Hash: crypto.SHA256}
	id := []byte("made afterwards!")
	return map[string]func(context.Context, *token.Token) error{
		"MAC": func(ctx context.Context, tok *token.Token) error {
			_, err := tok.MAC(ctx, key, []byte("m"))
			return err
		},
		"Sign": func(ctx context.Context, tok *token.Token) error {
			_, err := tok.Sign(ctx, pair, es256, []byte("m"))
			return err
		},
		"NewStream": func(ctx context.Context, tok *token.Token) error {
			s, err := tok.NewStream(ctx, key)
			if err != nil {
				return err
			}
			_, err = s.Write([]byte("m"))
			return errors.Join(err, s.Close())
		},
		"GenerateHMACKey": func(ctx context.Context, tok *token.Token) error {
			_, err := tok.GenerateHMACKey(ctx, token.SHA256, id, "made")
			return err
		},
		"DestroyKey": func(ctx context.Context, tok *token.Token) error { return tok.DestroyKey(ctx, key.ID(), "test key") },
		"Describe":   func(ctx context.Context, tok *token.Token) error { _, err := tok.Describe(ctx, key.ID()); return err },
		"HealthyMAC": func(ctx context.Context, tok *token.Token) error { return tok.HealthyMAC(ctx, key) },
		"HealthySignature": func(ctx context.Context, tok *token.Token) error {
			return tok.HealthySignature(ctx, pair, es256)
		},
	}
}

// Whatever was wrong with the files passes, and so does the loss, by one restart of the module; meanwhile no key is called
// missing, which would let its record be removed.
func TestObjectsOutOfSightComeBack(t *testing.T) {
	faults := map[string]func(*testing.T, string) (end func()){
		"too many open files": func(t *testing.T, _ string) func() { return useUpDescriptors(t) },
		"the token's directory was away": func(t *testing.T, dir string) func() {
			return moveAway(t, dir)
		},
		"the directory of all tokens was away": func(t *testing.T, dir string) func() {
			return moveAway(t, filepath.Dir(dir))
		},
	}
	for fault, begin := range faults {
		for name := range uses(nil, nil) {
			t.Run(fault+", "+name, func(t *testing.T) {
				tok, f, dir := openWatched(t)
				key := newKey(t, tok)
				pair, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P256, randomBytes(t, 16), "pair")
				require.NoError(t, err)
				want, err := tok.MAC(t.Context(), key, []byte("message"))
				require.NoError(t, err)
				initialized := f.count("C_Initialize")

				end := begin(t, dir)
				use := uses(key, pair)[name]
				for _, ctx := range []context.Context{t.Context(), context.Background()} {
					err = use(ctx, tok)
					assert.ErrorIs(t, err, token.ErrGone)
					assert.NotErrorIs(t, err, token.ErrKeyMissing, "nobody can say so now")
				}
				end()

				require.Eventually(t, func() bool { return use(t.Context(), tok) == nil }, patience, tick)
				assert.LessOrEqual(t, f.count("C_Initialize"), initialized+1)
				if name != "DestroyKey" {
					got, err := tok.MAC(t.Context(), key, []byte("message"))
					require.NoError(t, err)
					requireSame(t, want, got, "MAC")
				}
				require.NoError(t, tok.Healthy(t.Context()))
			})
		}
	}
}

// A loss that another call meets meanwhile ends with new sessions, by which nobody sees more: the objects are looked for all the same.
func TestObjectsOutOfSightComeBackAfterAnotherLoss(t *testing.T) {
	tok, f, dir := openWatched(t)
	key := newKey(t, tok)
	file := fileOf(t, dir)
	require.NoError(t, os.Rename(file, file+".away"))
	_, err := tok.Describe(t.Context(), key.ID())
	require.ErrorIs(t, err, token.ErrKeyMissing)
	require.NoError(t, os.Rename(file+".away", file))
	reached, gate := make(chan struct{}), make(chan struct{})
	f.on("C_FindObjectsFinal", func() error {
		f.on("C_FindObjectsFinal", nil)
		close(reached)
		<-gate
		return nil
	})
	described := make(chan error, 1)
	go func() {
		_, err := tok.Describe(context.Background(), key.ID())
		described <- err
	}()
	<-reached // it has found nothing
	initialized := f.count("C_Initialize")
	f.fail("C_GenerateRandom", 4, pkcs11.CKR_DEVICE_ERROR) // of the call, and of the check on three sessions
	_, err = tok.Random(context.Background(), 8)
	require.NoError(t, err)
	require.Equal(t, uint64(1), tok.State().Losses)
	require.Equal(t, initialized, f.count("C_Initialize"), "new sessions were enough")
	close(gate)
	require.NoError(t, <-described)
}

// A key that was destroyed is missing, and nothing is restarted for it: other clients in the process would lose their sessions.
func TestADestroyedKeyIsMissing(t *testing.T) {
	tok, f, _ := openWatched(t)
	kept, gone := newKey(t, tok), newKey(t, tok)
	require.NoError(t, tok.DestroyKey(t.Context(), gone.ID(), "test key"))
	finalized := f.count("C_Finalize")
	for range 3 {
		_, err := tok.MAC(t.Context(), gone, []byte("message"))
		require.ErrorIs(t, err, token.ErrKeyMissing)
		require.ErrorIs(t, tok.DestroyKey(t.Context(), gone.ID(), "test key"), token.ErrKeyMissing)
		require.ErrorIs(t, tok.HealthyMAC(t.Context(), gone), token.ErrKeyMissing)
	}
	require.NoError(t, tok.HealthyMAC(t.Context(), kept))
	assert.Equal(t, finalized, f.count("C_Finalize"))
}

// The file of an object that is damaged for good costs one restart and no more, and other keys serve.
func TestADamagedObjectIsMissing(t *testing.T) {
	tok, f, dir := openWatched(t)
	key := newKey(t, tok)
	files, err := filepath.Glob(filepath.Join(dir, "*.object"))
	require.NoError(t, err)
	for _, file := range files {
		if filepath.Base(file) != "token.object" {
			require.NoError(t, os.Truncate(file, 0))
		}
	}
	other := newKey(t, tok)
	initialized := f.count("C_Initialize")
	for range 3 {
		_, err = tok.Describe(t.Context(), key.ID())
		require.ErrorIs(t, err, token.ErrKeyMissing)
	}
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	require.ErrorIs(t, err, token.ErrKeyMissing)
	require.NoError(t, tok.HealthyMAC(t.Context(), other))
	assert.Equal(t, initialized+1, f.count("C_Initialize"))
}

// A damaged file that was taken away excuses no object that is lost sight of later.
func TestADamagedObjectThatIsRemovedHidesNoLoss(t *testing.T) {
	tok, f, dir := openWatched(t)
	requireMissing := func(key *token.Key) {
		_, err := tok.Describe(t.Context(), key.ID())
		require.ErrorIs(t, err, token.ErrKeyMissing)
	}
	damaged := newKey(t, tok)
	file := fileOf(t, dir)
	require.NoError(t, os.Truncate(file, 0))
	requireMissing(damaged)
	require.Equal(t, 1, f.count("C_Finalize"))
	require.NoError(t, os.Remove(file))
	requireMissing(damaged)
	require.Equal(t, 1, f.count("C_Finalize"))

	key := newKey(t, tok)
	file = fileOf(t, dir)
	require.NoError(t, os.Rename(file, file+".away"))
	requireMissing(key)
	require.NoError(t, os.Rename(file+".away", file))
	_, err := tok.Describe(t.Context(), key.ID())
	require.NoError(t, err)
	require.Equal(t, 2, f.count("C_Finalize"))
}

// While another part of the process uses the module it is asked for a pause, when the call timeout has gone by; its calls go on.
func TestTheModuleIsNotRestartedUnderOthers(t *testing.T) {
	cfg, made := newConfig(t)
	cfg.CallTimeout = time.Second
	f := newFaulty(&cfg)
	tok, dir := open(t, cfg), directory(t, made)
	key := newKey(t, tok)
	otherCfg, _ := newConfig(t)
	neighbour := open(t, otherCfg)
	theirs := newKey(t, neighbour)
	loseSight(t, tok, key, dir)
	var lost time.Time
	for tok.State().Reinitialized == 0 {
		_, err := neighbour.MAC(t.Context(), theirs, []byte("message"))
		require.NoError(t, err)
		_, err = tok.MAC(t.Context(), key, []byte("message"))
		if s := tok.State(); !s.Up {
			lost = s.Since
		}
		if !lost.IsZero() && time.Since(lost) < time.Second {
			require.Zero(t, f.count("C_Finalize"))
		}
		if err != nil {
			require.ErrorIs(t, err, token.ErrGone)
		}
	}
	require.Eventually(t, func() bool { return tok.HealthyMAC(t.Context(), key) == nil }, patience, tick)
	_, err := neighbour.MAC(t.Context(), theirs, []byte("message"))
	require.NoError(t, err)
}

// Calls that are under way when the module is to be restarted are waited for.
func TestTheModuleIsNotRestartedUnderCalls(t *testing.T) {
	tok, f, dir := openWatched(t)
	key, other := newKey(t, tok), newKey(t, tok)
	loseSight(t, tok, key, dir)

	reached, free := f.hang("C_GenerateRandom")
	random := make(chan error, 1)
	go func() { _, err := tok.Random(context.Background(), 8); random <- err }()
	<-reached
	mac := make(chan error, 1)
	go func() {
		require.Eventually(t, func() bool { _, err := tok.MAC(t.Context(), other, []byte("message")); return err == nil }, patience, tick)
		mac <- nil
	}()
	assert.Zero(t, f.count("C_Finalize"))
	free()
	require.NoError(t, <-random)
	require.NoError(t, <-mac)
	assert.Equal(t, 1, f.count("C_Finalize"))
}

// The restart begins when the last call under way has ended, and those who waited for a session meanwhile get one after it,
// also when nobody else comes.
func TestARestartWaitsForCallsAndServesThoseWhoWait(t *testing.T) {
	tok, f, dir := openWatched(t)
	key := newKey(t, tok)
	back := moveAway(t, dir)
	require.ErrorIs(t, tok.HealthyMAC(t.Context(), key), token.ErrGone)
	back()

	reached, gate := make(chan struct{}), make(chan struct{})
	var begun atomic.Bool
	f.on("C_GenerateRandom", func() error {
		if begun.CompareAndSwap(false, true) { // the first call alone
			close(reached)
			<-gate
		}
		return nil
	})
	underWay, checked, random := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() { _, err := tok.Random(context.Background(), 8); underWay <- err }()
	<-reached
	go func() { checked <- tok.HealthyMAC(context.Background(), key) }()
	ask := func() { _, err := tok.Random(context.Background(), 8); random <- err }
	go ask()
	require.Eventually(t, func() bool { // until the pool is held, answers come at once
		select {
		case err := <-random:
			require.NoError(t, err)
			go ask()
		default:
		}
		return tok.Stats().Waiting == 1
	}, patience, tick)
	assert.Zero(t, f.count("C_Finalize"))
	close(gate)
	require.NoError(t, <-underWay)
	require.NoError(t, <-random)
	require.NoError(t, <-checked)
	assert.Equal(t, 1, f.count("C_Finalize"))
}

// When the restart itself fails, a later call tries again.
func TestAFailedRestartIsRepeated(t *testing.T) {
	tok, f, dir := openWatched(t)
	key := newKey(t, tok)
	loseSight(t, tok, key, dir)
	for _, function := range []string{"C_Initialize", "C_GetSlotList", "C_Login"} {
		f.on(function, func() error { return errors.New("injected") })
		before := f.count(function)
		require.Eventually(t, func() bool {
			_, err := tok.MAC(t.Context(), key, []byte("message"))
			require.ErrorIs(t, err, token.ErrGone)
			return f.count(function) > before
		}, patience, tick, function)
		f.on(function, nil)
	}
	require.Eventually(t, func() bool { _, err := tok.MAC(t.Context(), key, []byte("message")); return err == nil }, patience, tick)
}

// A call that makes a key and fails while objects are out of sight brings them back, and is not repeated: nobody knows whether
// the key was made.
func TestGeneratingIsNotRepeatedAfterARestart(t *testing.T) {
	tok, f, dir := openWatched(t)
	key := newKey(t, tok)
	loseSight(t, tok, key, dir)
	initialized := f.count("C_Initialize")
	generated := f.count("C_GenerateKey")
	f.fail("C_GenerateKey", 1, pkcs11.CKR_DEVICE_ERROR)
	_, err := tok.GenerateHMACKey(t.Context(), token.SHA256, randomBytes(t, 16), "made")
	requireRV(t, err, "C_GenerateKey", pkcs11.CKR_DEVICE_ERROR)
	assert.Equal(t, generated+1, f.count("C_GenerateKey"))
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err, "the objects are in sight again")
	assert.Equal(t, initialized+1, f.count("C_Initialize"))
}
