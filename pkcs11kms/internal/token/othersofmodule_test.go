package token_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// Another part of the process has changed what the environment says of SoftHSM's configuration. The token that is lost is of the one that
// its module was initialised with, and comes back; nothing is finalized under a call that is inside.
func TestAnotherConfigurationInTheEnvironment(t *testing.T) {
	cfg, m := newConfigThrough(t)
	t.Setenv("SOFTHSM2_CONF", cfg.SoftHSMConf)
	cfg.SoftHSMConf = ""
	tok := open(t, cfg)
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	t.Setenv("SOFTHSM2_CONF", filepath.Join(t.TempDir(), "another.conf"))
	m.Do("on C_Sign hang times=1")
	ctx, cancel := context.WithCancel(context.Background())
	call := sign(ctx, tok, key)
	m.Await("C_Sign", func(n faultp11.Counters) bool { return n.Hanging == 1 })
	cancel()
	hung, ok := errors.AsType[*token.HungError](<-call)
	require.True(t, ok)
	m.Do("lose sessions")
	requireBack(t, tok, key, want)
	require.Zero(t, m.Counters()["C_Finalize"].Calls)
	m.Do("release C_Sign")
	<-hung.Done()
	m.Do("lose device")
	requireBack(t, tok, key, want)
	require.Empty(t, m.Violations())
}

// A session whose closing hangs keeps the module from being initialised anew, and does not keep the other tokens of the module waiting.
func TestAClosingThatHangsDoesNotStopOtherTokens(t *testing.T) {
	lostCfg, m := newConfigThrough(t)
	workingCfg, second := newConfig(t)
	workingCfg.URI = token.URI{Token: second.Label, ModulePath: m.Path, PINFile: second.PINFile}.String()
	lostCfg.CallTimeout = 300 * time.Millisecond
	lost, working := open(t, lostCfg), open(t, workingCfg)
	key, theirs := newKey(t, lost), newKey(t, working)
	_, err := working.MAC(t.Context(), theirs, []byte("message"))
	require.NoError(t, err)
	leave := working.TakeFree()
	m.Do("on C_CloseSession hang times=1")
	leave()
	m.Await("C_CloseSession", func(n faultp11.Counters) bool { return n.Hanging == 1 })

	m.Do("on C_OpenSession,C_GetSessionInfo,C_SignInit fail CKR_DEVICE_ERROR token=" + lost.Info().Label)
	_, err = lost.MAC(t.Context(), key, []byte("message"))
	require.ErrorIs(t, err, token.ErrGone)
	for end := time.Now().Add(patience); !strings.Contains(lost.State().Err.Error(), "C_CloseSession is inside the module"); {
		require.True(t, time.Now().Before(end), "%v", lost.State().Err)
		_, err := working.MAC(t.Context(), theirs, []byte("message"))
		require.NoError(t, err)
	}
	_, err = working.MAC(t.Context(), theirs, []byte("message"))
	require.NoError(t, err)
	m.Do("clear")
}
