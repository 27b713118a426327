package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

// begun starts init with a SoftHSM token of its own.
func begun(binary, dir string) *exec.Cmd {
	return exec.Command(binary, "init", "--softhsm", "--state-dir", dir)
}

// assertBeginsAnew holds that what a killed init has left is in nobody's way: the next one makes a state directory that works.
func assertBeginsAnew(t *testing.T, dir string) {
	t.Helper()
	binary := executable(t, realBinary)
	r, err := run(exec.Command(binary, "list-keys", "--state-dir", dir))
	require.NoError(t, err)
	if r.code == 0 {
		return // it was killed when all was done
	}
	assert.Contains(t, string(r.stderr), "hint: make one: pkcs11kms init --softhsm --state-dir "+dir)
	r, err = run(begun(binary, dir))
	require.NoError(t, err)
	require.Zero(t, r.code, "%s\n%s", r.stderr, strings.Join(names(t, dir), " "))
	assert.Subset(t, []string{"audit", "config.yaml", "kms.db", "locks", "pin", "softhsm2.conf", "tokens", "tokens.saved"}, names(t, dir))
	r, err = run(exec.Command(binary, append([]string{"--state-dir", dir}, createArgs...)...))
	require.NoError(t, err)
	require.Zero(t, r.code, "%s", r.stderr)
}

// names are those of the entries of a directory; none where there is no directory.
func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// TestInitKilledAtEachStep: the next init takes over what the step leaves, and "serve --dev", which begins by the same call, with it.
func TestInitKilledAtEachStep(t *testing.T) {
	softhsm.NewToken(t) // skips without SoftHSM; init makes a token of its own
	for step, left := range map[string]string{
		"init-claimed": ".init", "init-token-made": "pin", "init-store-made": "kms.db", "init-bound": "kms.db", "init-recorded": "audit",
		"init-config-written": "kms.db",
	} {
		t.Run(step, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "kms")
			cmd := begun(executable(t, crashingBinary), dir)
			cmd.Env = append(os.Environ(), envCrashAt+"="+step)
			r, err := run(cmd)
			require.NoError(t, err)
			require.True(t, r.killed, "init did not die at %s: it ended with %d: %s", step, r.code, r.stderr)
			require.Contains(t, names(t, dir), left)
			require.Contains(t, names(t, dir), ".init")
			assertBeginsAnew(t, dir)
		})
	}
}

// TestInitKilledAtRandomMoments kills it at moments that are spread over the time that one takes.
func TestInitKilledAtRandomMoments(t *testing.T) {
	long(t)
	softhsm.NewToken(t)
	const kills = 20
	binary := executable(t, realBinary)
	began := time.Now()
	r, err := run(begun(binary, filepath.Join(t.TempDir(), "kms")))
	require.NoError(t, err)
	require.Zero(t, r.code, "%s", r.stderr)
	typical := time.Since(began)
	parent, killed, claimed := t.TempDir(), 0, 0
	for i := range kills {
		dir := filepath.Join(parent, strconv.Itoa(i))
		r, err := runFor(begun(binary, dir), typical*time.Duration(i+1)/kills)
		require.NoError(t, err)
		if r.killed {
			killed++
		}
		if len(names(t, dir)) > 0 {
			claimed++
		}
		assertBeginsAnew(t, dir)
	}
	t.Logf("%d of %d were killed, %d had begun", killed, kills, claimed)
	assert.Positive(t, killed)
}

// TestKilledBackup: whatever a killed backup leaves beside its file, doctor names it and the next backup, to wherever, removes it.
func TestKilledBackup(t *testing.T) {
	d := newStateDir(t)
	d.createKey(t)
	dir := t.TempDir()
	left := func() []string {
		found, err := filepath.Glob(filepath.Join(dir, ".monday.db.new-*"))
		require.NoError(t, err)
		return found
	}
	for attempt := 0; len(left()) == 0; attempt++ {
		require.Less(t, attempt, 200, "backup is always faster than the kill")
		cmd := d.command("backup", filepath.Join(dir, "monday.db"))
		require.NoError(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		require.Eventually(t, func() bool { return len(left()) > 0 || len(ended) > 0 }, patience, 100*time.Microsecond)
		_ = cmd.Process.Kill() // fails when it has ended
		<-ended
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "monday.db")))
	}
	draft := left()[0]
	r, err := run(d.command("doctor"))
	require.NoError(t, err)
	require.Zero(t, r.code, "%s", r.stderr)
	assert.Contains(t, string(r.stdout), "warning  "+draft+": was left half made by a backup or restore that was killed")
	d.must(t, nil, "backup", filepath.Join(t.TempDir(), "tuesday.db"))
	assert.Empty(t, names(t, dir))
}
