package statedir

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// shareDir is a directory as far as those who share a port look at it.
func shareDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "kms")
	require.NoError(t, os.Mkdir(dir, 0o700))
	return dir
}

func mustShare(t *testing.T, dir, address string) net.Listener {
	t.Helper()
	listener, err := ListenShared(t.Context(), dir, "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// foreign listens as another program of the same user may.
func foreign(t *testing.T, address string, reuse bool) net.Listener {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			if reuse {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}
		}), err)
	}}
	listener, err := config.Listen(t.Context(), "tcp4", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// answering accepts connections, closes them, and counts.
func answering(listener net.Listener) (count func() int) {
	var mu sync.Mutex
	n := 0
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
			mu.Lock()
			n++
			mu.Unlock()
		}
	}()
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

func requireShares(t *testing.T, want bool, dir, address string) {
	t.Helper()
	got, err := SharesPort(t.Context(), dir, address)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// TestServersShareAPort: connections go to all, and to those that are left when one ends.
func TestServersShareAPort(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "[::1]", "", "[::]", "localhost"} {
		t.Run(host, func(t *testing.T) {
			dir := shareDir(t)
			requireShares(t, false, dir, "127.0.0.1:4599")
			first := mustShare(t, dir, host+":0")
			_, port, err := net.SplitHostPort(first.Addr().String())
			require.NoError(t, err)
			address := host + ":" + port
			second := mustShare(t, dir, address)
			require.Equal(t, first.Addr(), second.Addr())
			requireShares(t, true, dir, address)
			requireShares(t, false, dir, host+":1")
			ones, others := answering(first), answering(second)
			dialed := 0
			connect := func() {
				dialed++
				conn, err := net.Dial("tcp", first.Addr().String())
				require.NoError(t, err)
				_ = conn.Close()
			}
			for deadline := time.Now().Add(time.Minute); ones() == 0 || others() == 0; {
				require.True(t, time.Now().Before(deadline))
				connect()
			}
			require.Eventually(t, func() bool { return ones()+others() == dialed }, time.Minute, time.Millisecond) // none is on its way
			require.NoError(t, first.Close())
			_ = first.Close() // as net/http does it
			requireShares(t, true, dir, address)
			before := others()
			for range 20 {
				connect()
			}
			require.Eventually(t, func() bool { return others() == before+20 }, time.Minute, time.Millisecond)
			require.NoError(t, second.Close())
			requireShares(t, false, dir, address)
			left, err := os.ReadDir(filepath.Join(dir, "shared-ports"))
			require.NoError(t, err)
			require.Len(t, left, 1, "the lock of those who start")
		})
	}
}

// requireForeign checks the refusal of an address where others listen.
func requireForeign(t *testing.T, dir, address, hint string) {
	t.Helper()
	listener, err := ListenShared(t.Context(), dir, "tcp4", address)
	if err == nil {
		_ = listener.Close()
	}
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.ErrorContains(t, err, "a process that does not share it with this state directory listens on ")
	var hinted interface{ Hint() string }
	require.ErrorAs(t, err, &hinted)
	require.Contains(t, hinted.Hint(), hint)
}

// TestPortsOfOthersAreNotShared: what the system would allow, since all are of one user, is refused: their keys are others.
func TestPortsOfOthersAreNotShared(t *testing.T) {
	const other, thief = "one of another state directory", "it takes connections away"
	dir := shareDir(t)
	port := func(l net.Listener) string { return l.Addr().String()[strings.LastIndex(l.Addr().String(), ":"):] }

	plain := foreign(t, "127.0.0.1:0", false)
	requireForeign(t, dir, plain.Addr().String(), other)
	requireForeign(t, dir, "0.0.0.0"+port(plain), other)
	reusing := foreign(t, "127.0.0.1:0", true)
	requireForeign(t, dir, reusing.Addr().String(), other)
	requireForeign(t, dir, "0.0.0.0"+port(reusing), other)
	everywhere := foreign(t, "0.0.0.0:0", true)
	requireForeign(t, dir, "127.0.0.1"+port(everywhere), other)
	theirs := mustShare(t, shareDir(t), "127.0.0.1:0")
	requireForeign(t, dir, theirs.Addr().String(), other)
	requireForeign(t, dir, "0.0.0.0"+port(theirs), other)

	ours := mustShare(t, dir, "127.0.0.1:0")
	_, err := net.Listen("tcp4", ours.Addr().String())
	require.ErrorIs(t, err, syscall.EADDRINUSE, "one that does not share is kept out by the system")
	late := foreign(t, ours.Addr().String(), true)
	requireForeign(t, dir, ours.Addr().String(), thief)
	require.NoError(t, late.Close())
	wide := foreign(t, "0.0.0.0"+port(ours), true)
	requireForeign(t, dir, ours.Addr().String(), thief)
	require.NoError(t, wide.Close())
	mustShare(t, dir, ours.Addr().String())
	mustShare(t, dir, "0.0.0.0"+port(ours)) // it is of the same directory, whatever use it is
}

// TestStartsAtOnce: when servers of several state directories start on one port at the same moment, those of one get it, all of them.
func TestStartsAtOnce(t *testing.T) {
	dirs := []string{shareDir(t), shareDir(t)}
	for range 10 {
		free := foreign(t, "127.0.0.1:0", false)
		address := free.Addr().String()
		require.NoError(t, free.Close())
		const each = 4
		won := make([][]net.Listener, len(dirs))
		var all sync.WaitGroup
		var mu sync.Mutex
		for i := range len(dirs) * each {
			all.Go(func() {
				which := i % len(dirs)
				listener, err := ListenShared(t.Context(), dirs[which], "tcp4", address)
				if err != nil {
					assert.ErrorIs(t, err, syscall.EADDRINUSE)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				won[which] = append(won[which], listener)
			})
		}
		all.Wait()
		counts := []int{len(won[0]), len(won[1])}
		for _, listeners := range won {
			for _, l := range listeners {
				require.NoError(t, l.Close())
			}
		}
		require.ElementsMatch(t, []int{0, each}, counts)
	}
}

// TestFilesOfKilledServers: what has no lock is nobody's, and is removed.
func TestFilesOfKilledServers(t *testing.T) {
	dir := shareDir(t)
	first := mustShare(t, dir, "127.0.0.1:0")
	stale := filepath.Join(dir, "shared-ports", first.Addr().String()+"_1")
	require.NoError(t, os.WriteFile(stale, nil, 0o600))
	other := filepath.Join(dir, "shared-ports", "other")
	require.NoError(t, os.WriteFile(other, nil, 0o600))
	mustShare(t, dir, first.Addr().String())
	require.NoFileExists(t, stale)
	require.FileExists(t, other, "what is no file of a server is let be")

	// Without its file a server is not known, although it is one of this directory's: so there must have been a copy of the directory.
	address := first.Addr().String()
	copied := shareDir(t)
	require.NoError(t, os.CopyFS(filepath.Join(copied, "shared-ports"), os.DirFS(filepath.Join(dir, "shared-ports"))))
	require.NoError(t, os.Chmod(filepath.Join(copied, "shared-ports"), 0o700))
	requireForeign(t, copied, address, "one of another state directory")
}

// TestStateDirectoriesThatCannotShare: the directory must be one that only its owner writes to.
func TestStateDirectoriesThatCannotShare(t *testing.T) {
	refused := func(dir, problem string) {
		t.Helper()
		_, err := ListenShared(t.Context(), dir, "tcp4", "127.0.0.1:0")
		require.ErrorContains(t, err, problem)
		var hinted interface{ Hint() string }
		require.ErrorAs(t, err, &hinted)
		require.NotEmpty(t, hinted.Hint())
	}
	refused(filepath.Join(t.TempDir(), "missing"), "does not exist")
	open := shareDir(t)
	require.NoError(t, os.Chmod(open, 0o755))
	refused(open, "is open to other users")
	inside := shareDir(t)
	require.NoError(t, os.Mkdir(filepath.Join(inside, "shared-ports"), 0o700))
	require.NoError(t, os.Chmod(filepath.Join(inside, "shared-ports"), 0o777))
	refused(inside, "is open to other users")
	file := shareDir(t)
	require.NoError(t, os.WriteFile(filepath.Join(file, "shared-ports"), nil, 0o600))
	refused(file, "cannot note in the state directory who shares the port")

	held := shareDir(t)
	require.NoError(t, mustShare(t, held, "127.0.0.1:0").Close())
	lock, err := os.OpenFile(filepath.Join(held, "shared-ports", "start"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = ListenShared(ctx, held, "tcp4", "127.0.0.1:0")
	require.ErrorIs(t, err, context.DeadlineExceeded, "another start is waited for")
}
