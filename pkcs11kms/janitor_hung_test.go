package pkcs11kms

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/softhsm"
)

// hangChanges makes the calls of SoftHSM hang that look for the token's objects or change them, until the returned function is
// called. SoftHSM waits for a lock of fcntl on this file, and one that belongs to an open file keeps the same process out as well.
func hangChanges(t *testing.T, tok softhsm.TestToken) (free func()) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(tokenDirectory(t, tok), "generation"), os.O_RDWR, 0)
	require.NoError(t, err)
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	require.NoError(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock))
	return sync.OnceFunc(func() { require.NoError(t, f.Close()) })
}

// A key whose making hangs in the token is left alone by the janitor of the same process until the call has come back: only then can
// it be known that no object is made any more. Then the janitor removes what is left.
func TestJanitorLeavesAloneWhatHangsInTheToken(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	c := openClient(t, cfg)
	free := hangChanges(t, tok)
	defer free()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	created := make(chan error, 1)
	go func() {
		_, err := createHMAC256(ctx, c)
		created <- err
	}()
	unfinished := func() (found []keystore.Record) {
		found, err := c.bridge.core.Store.Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 10)
		require.NoError(t, err)
		return found
	}
	require.Eventually(t, func() bool { return len(unfinished()) == 1 && c.region.Token.Stats().InUse == 1 }, 30*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-created, context.Canceled)
	require.Equal(t, 1, c.region.Token.Stats().Lost, "the call hangs")

	before := unfinished()
	record, err := keystore.DecodeKey(before[0])
	require.NoError(t, err)
	require.Equal(t, keystore.Creating, record.State, "nobody has begun to remove it")
	removed, err := c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Empty(t, removed)
	require.Equal(t, before, unfinished())

	free()
	require.Eventually(t, func() bool {
		_, err := c.bridge.core.Keys.Tidy(t.Context())
		require.NoError(t, err)
		return len(unfinished()) == 0
	}, 30*time.Second, time.Millisecond)
	requireNothingHalfMade(t, c, 0)
}
