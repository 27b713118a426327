package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// aside keeps a state directory, without its token, as it is; put puts it back.
func (d *stateDir) aside(t *testing.T) (put func()) {
	t.Helper()
	kept := filepath.Join(t.TempDir(), "kept")
	copyAll := func(from, to string) {
		out, err := exec.Command("cp", "-a", from, to).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	copyAll(d.path, kept)
	return func() {
		require.NoError(t, os.RemoveAll(d.path))
		copyAll(kept, d.path)
	}
}

// serving is a server on the directory.
func (d *stateDir) serving() *exec.Cmd {
	return d.command("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
}

// A state directory that was put back to an earlier time, log and store together, is used by no server, and doctor tells of it, until the
// store is restored, which tells the token that it is so.
func TestRolledBackStateDirectory(t *testing.T) {
	d := newStateDir(t)
	d.createKey(t)
	d.serveOnce(t)
	backup := filepath.Join(t.TempDir(), "backup.db")
	d.must(t, nil, "backup", backup)
	put := d.aside(t)
	d.createKey(t)
	d.serveOnce(t)
	d.serveOnce(t)
	later := d.aside(t)

	put()
	refused := func(said string) {
		t.Helper()
		r, err := run(d.serving())
		require.NoError(t, err)
		require.Equal(t, 3, r.code)
		require.Contains(t, string(r.stderr), "this state directory was put back to an earlier time")
		require.Contains(t, string(r.stderr), said)
		require.Contains(t, string(r.stderr), "pkcs11kms restore FILE")
		r, err = run(d.command("doctor"))
		require.NoError(t, err)
		require.Equal(t, 3, r.code)
		require.Contains(t, string(r.stdout), "this state directory was put back to an earlier time")
		r, err = run(d.command("audit", "verify", "--store"))
		require.NoError(t, err)
		require.Equal(t, 1, r.code)
		require.Contains(t, string(r.stdout), "was put back to an earlier time")
	}
	refused("of the log ends with record")
	for range 20 { // commands do not seal, and the chain becomes as long as it was
		d.listKeys(t)
	}
	refused("of the log is another one")

	later()
	d.serveOnce(t)
	put()
	require.NoError(t, os.Remove(filepath.Join(d.path, "kms.db")))
	d.must(t, nil, "restore", backup)
	d.serveOnce(t)
	d.must(t, nil, "doctor")
	later()
	refused("the store is sealed in the epoch 1, and was in the epoch 2")
}

// A store that was put back to an earlier time beside its log is found, too.
func TestRolledBackStore(t *testing.T) {
	d := newStateDir(t)
	d.serveOnce(t)
	file := filepath.Join(d.path, "kms.db")
	old, err := os.ReadFile(file)
	require.NoError(t, err)
	d.createKey(t)
	d.serveOnce(t)
	require.NoError(t, os.WriteFile(file, old, 0o600))
	r, err := run(d.serving())
	require.NoError(t, err)
	require.Equal(t, 3, r.code)
	require.Contains(t, string(r.stderr), "as sealed up to record")
}

// Whatever moment a server dies at that tells the token of its last seal, the next one is not refused, and tells it anew.
func TestKilledWhileTheLastSealIsKept(t *testing.T) {
	d := newStateDir(t)
	for _, step := range []string{"last-seal-begins", "data-made", "last-seal-kept", "data-made"} {
		d.serveOnce(t)
		d.createKey(t)
		dying := *d
		dying.binary = executable(t, crashingBinary)
		cmd := dying.serving()
		t.Setenv(envCrashAt, step)
		s := startServed(t, &dying, cmd, patience)
		t.Setenv(envCrashAt, "")
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		s.drained.Wait()
		require.Error(t, cmd.Wait())
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		require.True(t, status.Signaled() && status.Signal() == syscall.SIGKILL, "%s: %s", step, s.log)
		d.must(t, nil, "doctor")
	}
	d.serveOnce(t)
	d.must(t, nil, "audit", "verify", "--store")
}

// Two state directories on one token have a last seal of their own each.
func TestLastSealsOfTwoStores(t *testing.T) {
	one := newStateDir(t)
	two := newStateDirOn(t, one.token)
	for range 2 {
		one.serveOnce(t)
		two.serveOnce(t)
	}
	put := one.aside(t)
	one.createKey(t)
	one.serveOnce(t)
	put()
	r, err := run(one.serving())
	require.NoError(t, err)
	require.Equal(t, 3, r.code)
	two.serveOnce(t)
}

// lastSeal has a server keep the last seal of the audit log in the token, which then is compared with by doctor and the next server.
func (s *tokenSuite) lastSeal(t *testing.T) string {
	server := startServed(t, s.d, s.d.serving(), patience)
	server.stop(t)
	if _, refused, no := strings.Cut(server.log.String(), "the token keeps no data objects: "); no {
		answer, _, _ := strings.Cut(refused, `"`)
		return "no: " + answer + "."
	}
	r, err := run(s.d.command("doctor")) // which has more to say of some tokens
	require.NoError(t, err)
	require.Contains(t, string(r.stdout), "not older than the last seal that the token keeps")
	s.d.serveOnce(t)
	return yes
}

// A token that does not take the last seal, or fails over it, keeps no server from its work: the log of the server tells.
func TestTokensThatKeepNoLastSeal(t *testing.T) {
	for answer, said := range map[string]string{
		"CKR_TEMPLATE_INCONSISTENT": "level=INFO msg=\"the token keeps no data objects, and so not the last seal of the audit log",
		"CKR_DEVICE_MEMORY":         "level=WARN msg=\"the token does not keep the last seal of the audit log",
	} {
		tok := softhsm.NewToken(t)
		m := faultp11.New(t, tok.Module)
		tok.Module = m.Path
		d := newStateDirOn(t, tok)
		m.AtStart("on C_CreateObject fail " + answer + " attribute=CKA_APPLICATION")
		for range 2 {
			s := startServed(t, d, d.serving(), patience)
			s.stop(t)
			require.Contains(t, s.log.String(), said)
			require.Equal(t, 1, strings.Count(s.log.String(), "last seal"), s.log)
		}
		r, err := run(d.command("doctor"))
		require.NoError(t, err)
		require.Equal(t, 0, r.code)
		require.Contains(t, string(r.stdout), "the token keeps no last seal of its audit log")
	}
}
