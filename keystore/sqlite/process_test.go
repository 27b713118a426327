package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/keystoretest"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// childVariable makes the test binary run as one of the children instead of running tests.
const childVariable = "PKCS11KMS_SQLITE_TEST_CHILD"

// children are what other processes do with a store. What they print is for the test that started them.
var children = map[string]func(path string) error{
	"increment":    withStore(childIncrement),
	"reopen":       childReopen,
	"loop":         withStore(childLoop),
	"limit":        withStore(childLimit),
	"hold":         withStore(childHold),
	"idle":         func(string) error { return waitForParent() },
	"unprivileged": childUnprivileged,
	"backup":       withStore(childBackup),
	"restore":      childRestore,
	"fullbackup":   childFullBackup,
	"fullrestore":  childFullRestore,
	"holdlock":     childHoldWriteLock,
	"watch":        withStore(childWatch),
	"migrate":      childMigrate,
	"fullmigrate":  childFullMigrate,
}

func TestMain(m *testing.M) {
	name := os.Getenv(childVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := children[name](os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func withStore(run func(s *sqlite.Store) error) func(path string) error {
	return func(path string) error {
		s, err := sqlite.Open(context.Background(), path, sqlite.Options{})
		if err != nil {
			return err
		}
		return errors.Join(run(s), s.Close())
	}
}

// child is another process at work.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner
	log   *strings.Builder
}

// startChild starts a process; the test ends it if nothing else does.
func startChild(t *testing.T, name, path string) *child {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	c := &child{cmd: exec.Command(exe, path), log: &strings.Builder{}}
	// The race detector would have each child sleep for a second at its end.
	c.cmd.Env = append(os.Environ(), childVariable+"="+name, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	c.cmd.Stderr = c.log
	c.stdin, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	c.lines = bufio.NewScanner(out)
	require.NoError(t, c.cmd.Start())
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait()
		}
	})
	return c
}

// line waits for the next line.
func (c *child) line(t *testing.T) string {
	t.Helper()
	require.True(t, c.lines.Scan(), "the child ended early")
	return c.lines.Text()
}

// finish tells the child to end and reads what it still had to say.
func (c *child) finish(t *testing.T) []string {
	t.Helper()
	require.NoError(t, c.stdin.Close())
	rest := c.rest()
	require.NoError(t, c.cmd.Wait(), "%s", c.log)
	return rest
}

// kill ends the child without any warning and returns the lines that it wrote before.
func (c *child) kill(t *testing.T) []string {
	t.Helper()
	require.NoError(t, c.cmd.Process.Kill())
	rest := c.rest()
	require.Error(t, c.cmd.Wait())
	return rest
}

func (c *child) rest() []string {
	var rest []string
	for c.lines.Scan() {
		rest = append(rest, c.lines.Text())
	}
	return rest
}

func waitForParent() error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

var counter = keystore.KeyRef("us-east-1", "111122223333", "counter")

const increments = 40

func childIncrement(s *sqlite.Store) error {
	for range increments {
		if err := keystoretest.Increment(context.Background(), s, counter); err != nil {
			return err
		}
	}
	return nil
}

func TestProcessesLoseNoUpdate(t *testing.T) {
	path := newPath(t)
	var running []*child
	for range 4 {
		running = append(running, startChild(t, "increment", path))
	}
	s := mustOpen(t, path)
	require.NoError(t, childIncrement(s))
	for _, c := range running {
		c.finish(t)
	}
	rec, err := s.Get(t.Context(), counter)
	require.NoError(t, err)
	assert.Equal(t, strconv.Itoa(5*increments), string(rec.Value))
}

// childReopen opens the store for each change, as the command line does.
func childReopen(path string) error {
	for range increments {
		err := withStore(func(s *sqlite.Store) error {
			return keystoretest.Increment(context.Background(), s, counter)
		})(path)
		if err != nil {
			return err
		}
	}
	return nil
}

// TestProcessesComeAndGo has nobody keep the store open: who closes it last tidies the journal away, while others
// are about to open it.
func TestProcessesComeAndGo(t *testing.T) {
	path := newPath(t)
	var running []*child
	for range 4 {
		running = append(running, startChild(t, "reopen", path))
	}
	for _, c := range running {
		c.finish(t)
	}
	s := mustOpen(t, path)
	rec, err := s.Get(t.Context(), counter)
	require.NoError(t, err)
	assert.Equal(t, strconv.Itoa(4*increments), string(rec.Value))
	requireText(t, raw(t, path), "PRAGMA integrity_check", "ok") // Verify would take the counter for a bad key
	assert.Equal(t, []string{s.Instance() + ".lock"}, names(t, filepath.Join(filepath.Dir(path), "locks")))
}

// childLoop commits one record after the other and prints the id of each that was acknowledged.
func childLoop(s *sqlite.Store) error {
	for i := 0; ; i++ {
		k := key(fmt.Sprintf("%s-%d", s.Instance(), i))
		if _, err := s.Commit(context.Background(), k.Put(0)); err != nil {
			return err
		}
		fmt.Println(k.ID)
	}
}

func TestKilledProcessesLoseNothing(t *testing.T) {
	path := newPath(t)
	survivor := mustOpen(t, path)
	var acknowledged []string
	for round := range 6 {
		a, b := startChild(t, "loop", path), startChild(t, "loop", path)
		for range 1 + 20*round {
			acknowledged = append(acknowledged, a.line(t), b.line(t))
		}
		acknowledged = append(acknowledged, a.kill(t)...)
		acknowledged = append(acknowledged, b.kill(t)...)
		require.NoError(t, survivor.Verify(t.Context()))
	}
	require.NoError(t, survivor.Close())

	s := mustOpen(t, path) // nobody has it open: this one starts from the files alone
	require.NoError(t, s.Verify(t.Context()))
	for _, id := range acknowledged {
		_, err := s.Get(t.Context(), key(id).Ref())
		require.NoError(t, err, id)
	}
	locks := names(t, filepath.Join(filepath.Dir(path), "locks"))
	assert.Equal(t, []string{s.Instance() + ".lock"}, locks, "the dead left no work, so nothing is kept of them")
}

// childLimit commits until a file size limit stops it, prints what was acknowledged, and goes on after the limit.
func childLimit(s *sqlite.Store) error {
	signal.Ignore(syscall.SIGXFSZ) // the answer that counts is EFBIG
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 200_000, Max: old.Max}); err != nil {
		return err
	}
	var failure error
	for i := 0; failure == nil; i++ {
		k := key(fmt.Sprintf("key-%d", i))
		if _, failure = s.Commit(context.Background(), k.Put(0)); failure == nil {
			fmt.Println(k.ID)
		}
	}
	var hinted interface{ Hint() string }
	if !errors.As(failure, &hinted) || hinted.Hint() == "" || !strings.Contains(failure.Error(), "commit to store") {
		return fmt.Errorf("no clear error with a hint: %w", failure)
	}
	if _, err := s.Get(context.Background(), key("key-0").Ref()); err != nil {
		return fmt.Errorf("reading under the limit: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	_, err := s.Commit(context.Background(), key("after the limit").Put(0))
	fmt.Println("after the limit")
	return err
}

func TestFileSizeLimitHarmsNothing(t *testing.T) {
	path := newPath(t)
	acknowledged := startChild(t, "limit", path).finish(t)
	require.Greater(t, len(acknowledged), 1, "some commits came before the limit")
	s := mustOpen(t, path)
	require.NoError(t, s.Verify(t.Context()))
	recs, err := s.List(t.Context(), keystore.KindKey, "us-east-1", "111122223333", "", keystore.MaxPage)
	require.NoError(t, err)
	var held []string
	for _, rec := range recs {
		held = append(held, rec.Ref.ID)
	}
	assert.ElementsMatch(t, acknowledged, held, "what failed left nothing behind")
}

// nobody is an ordinary user, for tests that run as root.
const nobody = 65534

// childUnprivileged tries to open a store as an ordinary user and prints the error and its hint.
func childUnprivileged(path string) error {
	if os.Geteuid() == 0 {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
			return err
		}
	}
	_, err := sqlite.Open(context.Background(), path, sqlite.Options{})
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) {
		return fmt.Errorf("no error with a hint: %w", err)
	}
	fmt.Println(err)
	fmt.Println(hinted.Hint())
	return nil
}

// giveAway lets the ordinary user reach a directory below t.TempDir, and own the named files.
func giveAway(t *testing.T, dir string, files ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	for _, name := range files {
		require.NoError(t, os.Chown(filepath.Join(dir, name), nobody, nobody))
	}
}

func TestReadOnlyDirectories(t *testing.T) {
	for _, readOnly := range []string{".", "locks"} {
		t.Run(readOnly, func(t *testing.T) {
			path := filledPath(t)
			dir := filepath.Dir(path)
			giveAway(t, dir, ".", "kms.db", "locks")
			before := snapshot(t, dir)
			require.NoError(t, os.Chmod(filepath.Join(dir, readOnly), 0o500|os.FileMode(map[string]int{".": 0o055}[readOnly])))
			t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, readOnly), 0o700) }) // for the removal, which complains itself

			lines := startChild(t, "unprivileged", path).finish(t)
			require.GreaterOrEqual(t, len(lines), 2)
			assert.Contains(t, lines[0], "open store")
			assert.Equal(t, readOnly == "locks", strings.Contains(lines[0], "/locks/"), "%q names what is in the way", lines[0])
			assert.Contains(t, lines[1], "write to its directory")
			assert.True(t, equal(before, snapshot(t, dir)))
		})
	}
}

func TestUnreadableFile(t *testing.T) {
	path := filledPath(t)
	giveAway(t, filepath.Dir(path), "kms.db", "locks")
	require.NoError(t, os.Chmod(path, 0))
	lines := startChild(t, "unprivileged", path).finish(t)
	require.GreaterOrEqual(t, len(lines), 2)
	assert.Contains(t, lines[0], "open store")
	assert.Contains(t, lines[1], "must own")
}
