package test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// workingRegion is the region whose token goes on while another fails.
const workingRegion = "eu-central-1"

// addRegion adds a region on a token of its own.
func addRegion(t *testing.T, d *stateDir, name string, tok softhsm.TestToken) {
	t.Helper()
	path := filepath.Join(d.path, "config.yaml")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	added := strings.Replace(string(text), "regions:\n", "regions:\n    "+name+":\n        token: "+tok.URI(tok.PINFile)+"\n", 1)
	require.NotEqual(t, string(text), added)
	require.NoError(t, os.WriteFile(path, []byte(added), 0o600))
}

// TestOutageOfOneTokenOfTwo: keys on another module are used as if nothing had happened. Those on the same module answer in their
// deadlines, although it takes a module that is initialised anew to bring the lost token back.
func TestOutageOfOneTokenOfTwo(t *testing.T) {
	strict := os.Getenv(envOutages) != ""
	for _, of := range []string{"two modules", "one module"} {
		t.Run(of, func(t *testing.T) {
			lost, working := softhsm.NewToken(t), softhsm.NewToken(t)
			m := faultp11.New(t, lost.Module)
			lost.Module = m.Path
			if of == "one module" {
				working.Module = m.Path
			}
			d := newStateDirOn(t, lost)
			configureOutages(t, d)
			addRegion(t, d, workingRegion, working)
			s := librarySubject(t, d)
			theirs := rootOf(t, s.bridge, workingRegion)
			ours := startAsking([]question{macQuestion(t, s.clients[0])}, s.clients[:4])
			clients := []kmsCalls{theirs, theirs, theirs, theirs}
			other := startAsking([]question{macQuestion(t, theirs)}, clients)
			before := other.rate(time.Second)
			m.Do("on C_OpenSession,C_GetSessionInfo,C_SignInit fail CKR_DEVICE_ERROR token=" + lost.Label)
			s.until(t, "the loss is declared", func(f figures) bool { return !f.up })
			require.Eventually(t, func() bool { return ours.refused.Load() > 0 }, outagePatience, pollEvery)
			if of == "one module" { // the pause, in which the other one's calls wait
				s.until(t, "the module is initialised anew", func(f figures) bool { return f.reinitialized > 0 })
			}
			during := other.rate(time.Second)
			require.Zero(t, other.refused.Load(), "%v", other)
			m.Clear()
			s.until(t, "the token is back", func(f figures) bool { return f.up })
			other.stop(t)
			ours.stop(t)
			require.Empty(t, m.Violations())
			t.Logf("%s: the lost one %v; the other one %v, %.0f a second before and %.0f while the token was lost", of, ours, other, before, during)
			if strict && of == "two modules" {
				require.GreaterOrEqual(t, during, fullRate*before)
			}
			s.end()
		})
	}
}

// TestServerBeforeItsToken: the HSM comes up after the server.
func TestServerBeforeItsToken(t *testing.T) {
	kit, _ := startKit(t)
	d := newStateDirOn(t, kit.client)
	configureOutages(t, d)
	maker := d.client(t)
	questions := []question{macQuestion(t, maker)}
	require.NoError(t, maker.Close())
	key := newAccessKey(t, d)
	kit.kill()
	s, server := serverSubjectAs(t, d, executable(t, realBinary), key)
	_, err := questions[0].ask(t.Context(), s.clients[0])
	require.Contains(t, []string{"KeyUnavailableException", "ServiceUnavailableException"}, codeOf(err))
	status, text, err := server.page(t.Context(), "/readyz")
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, text, "token-lost")
	kit.start(t)
	s.until(t, "the token is there", func(f figures) bool { return f.up })
	a := startAsking(questions, s.clients)
	require.Eventually(t, func() bool { return a.right.Load() > 100 }, patience, pollEvery)
	a.stop(t)
	s.end()
}

// TestPINChangedWhileTheTokenWasAway: the operator has changed the PIN and started the HSM again. It is tried once, and the server says
// why it waits. SIGHUP has it tried again when the PIN file is mended.
func TestPINChangedWhileTheTokenWasAway(t *testing.T) {
	kit, m := startKit(t)
	d := newStateDirOn(t, kit.client)
	configureOutages(t, d)
	maker := d.client(t)
	questions := []question{macQuestion(t, maker)}
	require.NoError(t, maker.Close())
	s, server := serverSubject(t, d, executable(t, realBinary))
	logins := func() int { return m.In(s.pid).Counters()["C_Login"].Calls }
	before := logins()
	a := startAsking(questions, s.clients)
	require.Eventually(t, func() bool { return a.right.Load() > 100 }, outagePatience, pollEvery) // who asks is known from then on

	kit.kill()
	s.until(t, "the loss is declared", func(f figures) bool { return !f.up })
	const newPIN = "0123456789"
	changePIN(t, kit.token, newPIN)
	kit.start(t)
	refused := func(why string) func() bool {
		return func() bool {
			status, text, err := server.page(t.Context(), "/readyz")
			return err == nil && status == http.StatusServiceUnavailable && strings.Contains(text, "token-lost") && strings.Contains(text, why)
		}
	}
	require.Eventually(t, refused("has refused the PIN; it was tried once"), outagePatience, pollEvery)
	refusals := a.refused.Load()
	require.Eventually(t, func() bool { return a.refused.Load() > refusals+100 }, outagePatience, pollEvery, "%v", a)
	require.NoError(t, server.cmd.Process.Signal(syscall.SIGHUP))
	const again = "has refused this PIN already, so it is not tried again"
	require.Eventually(t, refused(again), outagePatience, pollEvery)
	require.NoError(t, os.WriteFile(kit.client.PINFile, []byte(newPIN), 0o600))
	require.True(t, refused(again)(), "somebody may be writing the file")
	require.Equal(t, before+1, logins())

	require.NoError(t, server.cmd.Process.Signal(syscall.SIGHUP))
	s.until(t, "the token is back", func(f figures) bool { return f.up })
	right := a.right.Load()
	require.Eventually(t, func() bool { return a.right.Load() > right+100 }, outagePatience, pollEvery)
	require.Equal(t, before+2, logins())
	a.stop(t)
	s.end()
	t.Log(a)
}

// changePIN is the operator's work.
func changePIN(t *testing.T, tok softhsm.TestToken, pin string) {
	t.Helper()
	cmd := exec.Command(tool(t, "opensc", "pkcs11-tool"), "--module", tok.Module, "--token-label", tok.Label, "--change-pin",
		"--login", "--pin", tok.PIN(), "--new-pin", pin)
	cmd.Env = append(os.Environ(), tok.Env()...)
	require.NoError(t, cmd.Run())
}
