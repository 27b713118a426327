package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// subject is what is asked while its token fails: a server in a process of its own, or the library in this one.
type subject struct {
	name    string
	pid     int
	clients []kmsCalls // of each worker
	rest    func()     // ends what clients keep open
	look    func() (figures, error)
	end     func()            // and holds that it ended well
	bridge  *pkcs11kms.Bridge // of the library
	late    []string          // outages after which the full rate was not back in time
}

// figures are what a subject says of itself and the system of its process.
type figures struct {
	losses, reinitialized                int
	up                                   bool
	inUse, waiting, hanging, open, limit int // sessions
	goroutines, threads, descriptors     int
}

// outageRegion is the region whose token fails.
const outageRegion = "us-east-1"

// outageTimeout is the call timeout.
const outageTimeout = 2 * time.Second

// outagePatience is for what comes of itself, unless something is broken.
const outagePatience = time.Minute

// configureOutages adds to config.yaml what these tests want of it.
func configureOutages(t *testing.T, d *stateDir) {
	t.Helper()
	path := filepath.Join(d.path, "config.yaml")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	text = fmt.Appendf(text, "\ncall-timeout: %v\nquotas: {rates: off}\n", outageTimeout)
	require.NoError(t, os.WriteFile(path, text, 0o600))
}

// accessKey is one that requests are signed with.
type accessKey struct{ AccessKeyId, SecretAccessKey string }

func newAccessKey(t *testing.T, d *stateDir) accessKey {
	t.Helper()
	var made struct{ AccessKey accessKey }
	d.must(t, &made, "iam", "create-access-key")
	return made.AccessKey
}

// serverSubject starts a server.
func serverSubject(t *testing.T, d *stateDir, binary string) (*subject, *served) {
	t.Helper()
	return serverSubjectAs(t, d, binary, newAccessKey(t, d))
}

// serverSubjectAs is serverSubject with an access key that is there.
func serverSubjectAs(t *testing.T, d *stateDir, binary string, key accessKey) (*subject, *served) {
	t.Helper()
	cmd := exec.Command(binary, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-level", "warn")
	server := startServed(t, d, cmd, time.Hour)
	s := &subject{name: "server", pid: cmd.Process.Pid}
	var idle []func()
	for range loadWorkers {
		c, end := server.sdk(key.AccessKeyId, key.SecretAccessKey, true, 1)
		s.clients, idle = append(s.clients, c), append(idle, end)
	}
	s.rest = func() {
		for _, end := range idle {
			end()
		}
	}
	s.look = func() (figures, error) { return lookAtServer(t.Context(), server) }
	s.end = func() { server.stop(t) }
	return s, server
}

func lookAtServer(ctx context.Context, server *served) (f figures, err error) {
	_, text, err := server.page(ctx, "/metrics")
	if err != nil {
		return f, err
	}
	number := func(series string) int {
		found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(text)
		if found == nil {
			err = errors.Join(err, errors.New("there is no "+series))
			return 0
		}
		n, parsing := strconv.ParseFloat(found[1], 64)
		err = errors.Join(err, parsing)
		return int(n)
	}
	ofToken := func(name string) int { return number(fmt.Sprintf("pkcs11kms_token_%s{region=%q}", name, outageRegion)) }
	sessions := func(state string) int {
		return number(fmt.Sprintf("pkcs11kms_sessions{region=%q,state=%q}", outageRegion, state))
	}
	f = figures{losses: ofToken("losses_total"), reinitialized: ofToken("module_initialized_total"), up: ofToken("up") == 1,
		inUse: sessions("in_use"), waiting: sessions("waiting"), hanging: sessions("lost"), open: sessions("open"), limit: sessions("size"),
		goroutines: number("go_goroutines")}
	return f, errors.Join(err, f.ofProcess(server.cmd.Process.Pid))
}

// ofProcess adds what the system knows.
func (f *figures) ofProcess(pid int) error {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	f.threads, f.descriptors = len(tasks), len(open)
	return err
}

// librarySubject opens the library in this process.
func librarySubject(t *testing.T, d *stateDir) *subject {
	t.Helper()
	cfg, err := statedir.Load(d.path)
	require.NoError(t, err)
	b, err := statedir.Open(t.Context(), cfg)
	require.NoError(t, err)
	s := &subject{name: "library", pid: os.Getpid(), rest: func() {}}
	for range loadWorkers {
		s.clients = append(s.clients, rootOf(t, b, outageRegion))
	}
	s.look = func() (figures, error) { return lookAtLibrary(b) }
	s.bridge = b
	require.NoError(t, b.Health(t.Context())) // begins what a check needs
	s.end = func() { assert.NoError(t, b.Close()) }
	return s
}

// rootOf is the client of a region that acts as the root of the account.
func rootOf(t *testing.T, b *pkcs11kms.Bridge, region string) *pkcs11kms.Client {
	t.Helper()
	c, err := b.Client(region)
	require.NoError(t, err)
	return c.As(b.Root())
}

func lookAtLibrary(b *pkcs11kms.Bridge) (figures, error) {
	stats := b.Stats()
	token, sessions := stats.Tokens[outageRegion], stats.Sessions[outageRegion]
	f := figures{losses: int(token.Losses), reinitialized: int(token.Reinitialized), up: token.Up,
		inUse: sessions.InUse, waiting: sessions.Waiting, hanging: sessions.Lost, open: sessions.Open, limit: sessions.Size,
		goroutines: ourGoroutines()}
	return f, f.ofProcess(os.Getpid())
}

// ourGoroutines counts the goroutines in this process that run the product.
func ourGoroutines() int {
	stacks := make([]byte, 8<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	n := 0
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "bridge/pkcs11kms") {
			n++
		}
	}
	return n
}

// until waits until the figures are as they should.
func (s *subject) until(t *testing.T, what string, is func(figures) bool) figures {
	t.Helper()
	var last figures
	var err error
	for end := time.Now().Add(outagePatience); ; time.Sleep(pollEvery) {
		if last, err = s.look(); err == nil && is(last) {
			return last
		}
		if time.Now().After(end) {
			require.Fail(t, "waiting until "+what, "%+v, %v", last, err)
		}
	}
}

// back waits until the token is there.
func (s *subject) back(t *testing.T) figures {
	t.Helper()
	return s.until(t, "the token is there", func(f figures) bool { return f.up })
}

// settled waits until nothing is under way any more, and returns the figures then.
func (s *subject) settled(t *testing.T) figures {
	t.Helper()
	s.rest()
	return s.until(t, "nothing is under way", func(f figures) bool { return f.up && f.inUse == 0 && f.waiting == 0 && f.hanging == 0 })
}

// begunOnce is what a process begins at the first outage and keeps: the goroutine of a check, a connection to the store.
const begunOnce = 4

// holdsNoMore waits until the subject has no more than before. A session has a goroutine. The runtime keeps threads that were in calls
// that hung, for the next ones that need a thread: as many as calls can hang at once, and a few. What each outage leaves adds up, since
// before is the time before the first of many.
func (s *subject) holdsNoMore(t *testing.T, before figures) {
	t.Helper()
	for end := time.Now().Add(outagePatience); ; time.Sleep(pollEvery) {
		s.rest()
		now, err := s.look()
		quiet := err == nil && now.inUse == 0 && now.waiting == 0 && now.hanging == 0
		if quiet && now.goroutines-now.open <= before.goroutines-before.open+begunOnce &&
			now.descriptors <= before.descriptors+begunOnce && now.threads <= before.threads+now.limit+8 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("before %+v, now %+v, %v; %v", before, now, err, s.descriptors())
		}
	}
}

// descriptors tells what is open.
func (s *subject) descriptors() (open []string) {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.pid))
	sockets, _ := os.ReadFile("/proc/net/unix")
	for _, name := range names {
		to, _ := os.Readlink(name)
		if inode, is := strings.CutPrefix(strings.TrimSuffix(to, "]"), "socket:["); is && strings.Contains(string(sockets), " "+inode) {
			to += " of unix"
		}
		open = append(open, filepath.Base(name)+": "+to)
	}
	return open
}
