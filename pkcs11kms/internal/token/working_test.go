package token_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// lostBeside opens two tokens of one module, of which the first can be lost alone.
func lostBeside(t *testing.T, timeout time.Duration) (lost, working *token.Token, m *faultp11.Module, lostLog, workingLog *linesOfLog) {
	t.Helper()
	lostCfg, m := newConfigThrough(t)
	workingCfg, second := newConfig(t)
	workingCfg.URI = token.URI{Token: second.Label, ModulePath: m.Path, PINFile: second.PINFile}.String()
	lostLog, workingLog = &linesOfLog{}, &linesOfLog{}
	lostCfg.CallTimeout, lostCfg.Logger, workingCfg.Logger = timeout, lostLog.atInfo(), workingLog.atInfo()
	return open(t, lostCfg), open(t, workingCfg), m, lostLog, workingLog
}

// While other tokens work, attempts in vain to bring one back leave no sessions, and ask nobody for a pause before the call timeout is
// over.
func TestAttemptsInVainBesideAWorkingToken(t *testing.T) {
	lost, _, m, _, _ := lostBeside(t, time.Hour)
	open, finalized := m.Open(), m.Counters()["C_Finalize"].Calls
	m.Do("on C_GenerateRandom fail CKR_DEVICE_ERROR token=" + lost.Info().Label)
	require.ErrorIs(t, lost.Healthy(t.Context()), token.ErrGone)
	before := m.Counters()["C_OpenSession"].Calls
	require.Eventually(t, func() bool { return m.Counters()["C_OpenSession"].Calls > before+8 }, patience, tick)
	require.LessOrEqual(t, m.Open(), open+3)
	require.Equal(t, finalized, m.Counters()["C_Finalize"].Calls)
	m.Do("clear")
	require.Eventually(t, func() bool { return lost.State().Up }, patience, tick)
}

// A pause is told to the operator of the token that asks for it, and to that of one that is asked.
func TestAPauseIsTold(t *testing.T) {
	lost, _, m, lostLog, workingLog := lostBeside(t, 100*time.Millisecond)
	m.Do("on C_GenerateRandom fail CKR_DEVICE_ERROR token=" + lost.Info().Label)
	require.ErrorIs(t, lost.Healthy(t.Context()), token.ErrGone)
	require.Eventually(t, func() bool { return lost.State().Reinitialized == 1 }, patience, tick)
	m.Do("clear")
	require.Eventually(t, func() bool { return lost.State().Up }, patience, tick)
	require.Contains(t, lostLog.String(), "were asked for a pause")
	require.Contains(t, workingLog.String(), "the PKCS#11 module was initialised anew for another token that was lost")
}

// No token is asked for a pause while a call of it hangs: it would be in vain.
func TestNoPauseWhileACallHangs(t *testing.T) {
	lost, working, m, lostLog, _ := lostBeside(t, 100*time.Millisecond)
	key := newKey(t, working)
	m.Do("on C_Sign hang times=1 token=" + working.Info().Label)
	ctx, cancel := context.WithCancel(t.Context())
	call := sign(ctx, working, key)
	m.Await("C_Sign", func(c faultp11.Counters) bool { return c.Hanging == 1 })
	cancel()
	hung, ok := errors.AsType[*token.HungError](<-call)
	require.True(t, ok)
	m.Do("on C_GenerateRandom fail CKR_DEVICE_ERROR times=200 token=" + lost.Info().Label)
	require.ErrorIs(t, lost.Healthy(t.Context()), token.ErrGone)
	wanted := "a call of the token " + working.Info().Label + " hangs inside the module"
	require.Eventually(t, func() bool { return contains(lostLog, wanted) }, patience, tick)
	m.Do("release C_Sign")
	<-hung.Done()
	m.Do("clear")
	require.Eventually(t, func() bool { return lost.State().Up }, patience, tick)
}

// That a token was reached at last is told where it was told that it could not be, and nowhere else.
func TestThatATokenWasReachedIsTold(t *testing.T) {
	for _, away := range []bool{false, true} {
		cfg, m := newConfigThrough(t)
		lines := &linesOfLog{}
		waiting(&cfg)
		cfg.Logger = lines.atInfo()
		if away {
			cfg.CallTimeout = 100 * time.Millisecond
			m.AtStart("eject")
		}
		tok := open(t, cfg)
		if away {
			require.False(t, tok.State().Up)
			m.Do("insert")
		}
		require.Eventually(t, func() bool { return tok.State().Up }, patience, tick)
		require.NoError(t, tok.Close()) // which awaits whoever writes the log
		require.Equal(t, away, contains(lines, "the token was reached"), lines.String())
	}
}
