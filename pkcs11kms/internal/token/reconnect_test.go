package token_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// openThrough opens a token of its own through a module that injects faults, and checks in the end that no host's rule was broken, by
// which no C_Finalize met a call, and that the module keeps no session.
func openThrough(t *testing.T, change ...func(*token.Config)) (*token.Token, *faultp11.Module) {
	t.Helper()
	cfg, m := newConfigThrough(t)
	for _, c := range change {
		c(&cfg)
	}
	tok, err := token.Open(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		m.Clear()
		require.Eventually(t, func() bool { return tok.Stats().InUse == 0 }, patience, tick)
		assert.NoError(t, tok.Close())
		assert.Empty(t, m.Violations())
		require.Eventually(t, func() bool { return ourGoroutines() == 0 }, patience, tick)
	})
	return tok, m
}

// requireBack waits until a token makes the MAC of before again.
func requireBack(t *testing.T, tok *token.Token, key *token.Key, want []byte) {
	t.Helper()
	require.Eventually(t, func() bool {
		got, err := tok.MAC(t.Context(), key, []byte("message"))
		if err != nil {
			require.ErrorIs(t, err, token.ErrGone)
			return false
		}
		requireSame(t, want, got, "MAC")
		return true
	}, patience, tick)
	require.True(t, tok.State().Up)
	require.NoError(t, tok.Healthy(t.Context()))
}

// However the device was lost, load on it is answered with right MACs or with the loss, and all is well when it is back.
func TestLoadWhileTheDeviceIsLost(t *testing.T) {
	for how, ways := range map[string][2]string{
		"sessions":           {"lose sessions", "clear"},
		"server again":       {"lose device", "clear"},
		"server away":        {"down", "up"},
		"token out and in":   {"eject", "insert"},
		"errors of a device": {"on C_SignInit,C_Sign,C_GetSessionInfo,C_OpenSession,C_GenerateRandom fail CKR_DEVICE_ERROR", "clear"},
	} {
		t.Run(how, func(t *testing.T) {
			tok, m := openThrough(t)
			key := newKey(t, tok)
			want, err := tok.MAC(t.Context(), key, []byte("message"))
			require.NoError(t, err)
			stop := make(chan struct{})
			var load sync.WaitGroup
			for range 8 {
				load.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						got, err := tok.MAC(t.Context(), key, []byte("message"))
						if err == nil && !assert.ObjectsAreEqual(want, got) || err != nil && !errors.Is(err, token.ErrGone) && !isDeviceError(err) {
							t.Errorf("another MAC, or %v", err)
							return
						}
					}
				})
			}
			for range 5 {
				losses := tok.State().Losses
				m.Do(ways[0])
				require.Eventually(t, func() bool { return tok.State().Losses > losses }, patience, tick)
				m.Do(ways[1])
				requireBack(t, tok, key, want)
			}
			close(stop)
			load.Wait()
		})
	}
}

func isDeviceError(err error) bool {
	e, ok := errors.AsType[*token.Error](err)
	return ok && e.DeviceLost()
}

// A device that was lost again and again leaves no session with the module.
func TestOutagesLeaveNoSessions(t *testing.T) {
	tok, m := openThrough(t)
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	for range 20 {
		m.Do("on C_GenerateRandom fail CKR_DEVICE_ERROR times=3")
		require.Eventually(t, func() bool { return tok.Healthy(t.Context()) != nil }, patience, tick)
		requireBack(t, tok, key, want)
	}
	require.Zero(t, tok.State().Reinitialized, "new sessions were enough")
	require.Eventually(t, func() bool {
		n := m.Counters()
		return n["C_OpenSession"].Calls-n["C_CloseSession"].Calls == tok.Stats().Open+1
	}, patience, tick, "those of the pool, and the one that stays open")
}

// A session that the device did not get to closing is closed later: with the next that is opened, or when the device is back.
func TestSessionsThatCouldNotBeClosedAreClosedLater(t *testing.T) {
	tok, m := openThrough(t, timeout(500*time.Millisecond))
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	none := func() bool { return m.Open() == tok.Stats().Open+1 } // those of the pool, and the one that stays open
	m.Fail("C_SignInit", pkcs11.CKR_DEVICE_ERROR, "times=1")
	m.Fail("C_CloseSession", pkcs11.CKR_FUNCTION_FAILED, "times=1")
	got, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	requireSame(t, want, got, "MAC")
	require.Eventually(t, func() bool { return m.Counters()["C_CloseSession"].Faults == 1 }, patience, tick)
	require.Eventually(t, func() bool { // with the next session that is opened, which may have been before
		if !none() {
			m.Fail("C_SignInit", pkcs11.CKR_DEVICE_ERROR, "times=1")
			_, err := tok.MAC(t.Context(), key, []byte("message"))
			require.NoError(t, err)
		}
		return none()
	}, patience, tick)
	require.Zero(t, tok.State().Losses)

	m.Do("on * fail CKR_DEVICE_ERROR")
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	require.Error(t, err)
	require.Positive(t, tok.State().Losses)
	m.Clear()
	requireBack(t, tok, key, want)
	require.Eventually(t, none, patience, tick)
}

// The HSM was started again, and its operator has changed the PIN: one attempt is made. When the PIN file is mended, a person says so.
func TestChangedPINIsTriedOnce(t *testing.T) {
	var pinFile string
	cfg, m := newConfigThrough(t)
	uri, err := token.ParseURI(cfg.URI)
	require.NoError(t, err)
	cfg.CallTimeout = 500 * time.Millisecond
	pinFile = uri.PINFile
	right, err := os.ReadFile(pinFile)
	require.NoError(t, err)
	tok, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tok.Close()) })
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(pinFile, []byte("another PIN"), 0o600))
	logins := m.Counters()["C_Login"].Calls
	m.Do("lose device")
	require.Eventually(t, func() bool {
		_, err := tok.MAC(t.Context(), key, []byte("message"))
		require.ErrorIs(t, err, token.ErrGone)
		refused, ok := errors.AsType[*token.OpenError](err)
		return ok && refused.Reason == token.PINRefused
	}, patience, tick)
	require.NoError(t, os.WriteFile(pinFile, right, 0o600))
	require.ErrorIs(t, tok.Healthy(t.Context()), token.ErrGone)
	require.Equal(t, logins+1, m.Counters()["C_Login"].Calls, "a file that somebody is writing is not tried")
	tok.Retry()
	requireBack(t, tok, key, want)
	require.Equal(t, logins+2, m.Counters()["C_Login"].Calls)
}

// While a call hangs inside the module, C_Finalize is not called, and calls are refused at once. When it comes back, so does the token;
// what the call leaves touches nothing of the new connection.
func TestNothingIsFinalizedUnderACallThatHangs(t *testing.T) {
	tok, m := openThrough(t, timeout(time.Second))
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	m.Do("on C_Sign hang times=1")
	ctx, cancel := context.WithCancel(context.Background())
	call := sign(ctx, tok, key)
	m.Await("C_Sign", func(n faultp11.Counters) bool { return n.Hanging == 1 })
	cancel()
	hung, ok := errors.AsType[*token.HungError](<-call)
	require.True(t, ok)
	m.Do("lose device")
	require.Eventually(t, func() bool {
		_, err := tok.MAC(t.Context(), key, []byte("message"))
		require.ErrorIs(t, err, token.ErrGone)
		s := tok.State()
		tried := strings.Contains(err.Error(), "C_Sign is inside the module") // and not only waited for
		return tried && s.Waiting == "C_Sign" && !s.WaitingSince.IsZero() && s.Hangs
	}, patience, tick)
	begin := m.Counters()["C_SignInit"].Calls
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	require.ErrorIs(t, err, token.ErrGone)
	require.Equal(t, begin, m.Counters()["C_SignInit"].Calls)
	require.Zero(t, m.Counters()["C_Finalize"].Calls)
	m.Do("release C_Sign")
	<-hung.Done()
	requireBack(t, tok, key, want)
	require.Empty(t, tok.State().Waiting)
}

// Two tokens of one module. One of them is lost, which only C_Finalize could mend; the other goes on, and is asked for one pause when
// the call timeout has gone by in vain. None of its calls fails.
func TestAWorkingTokenIsAskedForAPause(t *testing.T) {
	lostCfg, m := newConfigThrough(t)
	workingCfg, second := newConfig(t)
	workingCfg.URI = token.URI{Token: second.Label, ModulePath: m.Path, PINFile: second.PINFile}.String()
	lostCfg.CallTimeout = 2 * time.Second
	lost, working := open(t, lostCfg), open(t, workingCfg)
	key, theirs := newKey(t, lost), newKey(t, working)
	want, err := lost.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)

	finalized := m.Counters()["C_Finalize"].Calls
	m.Do("on C_OpenSession,C_GetSessionInfo,C_SignInit fail CKR_DEVICE_ERROR token=" + lost.Info().Label)
	_, err = lost.MAC(t.Context(), key, []byte("message"))
	require.ErrorIs(t, err, token.ErrGone)
	require.ErrorContains(t, err, "other tokens of the module work")
	require.ErrorContains(t, err, "C_OpenSession: CKR_DEVICE_ERROR", "which is why new sessions do not help")
	for lost.State().Reinitialized == 0 {
		_, err := working.MAC(t.Context(), theirs, []byte("message"))
		require.NoError(t, err)
		require.NoError(t, working.HealthyMAC(t.Context(), theirs))
	}
	require.Equal(t, finalized+1, m.Counters()["C_Finalize"].Calls)
	// The device goes on to fail, and the attempts go on: these are without a pause.
	tried := m.Counters()["C_OpenSession"].Faults
	for m.Counters()["C_OpenSession"].Faults < tried+6 {
		_, err = working.MAC(t.Context(), theirs, []byte("message"))
		require.NoError(t, err)
	}
	require.False(t, lost.State().Up)
	m.Do("clear")
	requireBack(t, lost, key, want)
	require.Equal(t, finalized+1, m.Counters()["C_Finalize"].Calls, "one pause a minute at most")
	require.Empty(t, m.Violations())
}

// All tokens of a module are lost at once: the module is initialised anew, and all come back.
func TestAllTokensOfAModuleComeBackTogether(t *testing.T) {
	firstCfg, m := newConfigThrough(t)
	secondCfg, made := newConfig(t)
	secondCfg.URI = token.URI{Token: made.Label, ModulePath: m.Path, PINFile: made.PINFile}.String()
	tokens := []*token.Token{open(t, firstCfg), open(t, secondCfg)}
	keys := []*token.Key{newKey(t, tokens[0]), newKey(t, tokens[1])}
	for range 5 {
		m.Do("lose device")
		var both sync.WaitGroup
		for i, tok := range tokens {
			both.Go(func() {
				_, err := tok.MAC(t.Context(), keys[i], []byte("message"))
				assert.NoError(t, err, "within its deadline")
			})
		}
		both.Wait()
	}
	require.Empty(t, m.Violations())
}

// The host application owns the module, which then is never finalized: what can be done by new sessions is done, the rest is said.
func TestTokenOfAModuleThatTheHostOwns(t *testing.T) {
	cfg, m := newConfigThrough(t)
	cfg.CallTimeout = time.Second
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	host := pkcs11.New(m.Path)
	require.NoError(t, host.Initialize())
	tok, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	require.Contains(t, log.String(), "a lost device is brought back by new sessions and a login; where those do not help, the application")
	t.Cleanup(func() {
		require.NoError(t, tok.Close())
		_ = host.Finalize()
		host.Destroy()
	})
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	m.Do("lose sessions")
	requireBack(t, tok, key, want)
	m.Do("lose device")
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	require.ErrorIs(t, err, token.ErrGone)
	require.ErrorContains(t, err, "only the application can initialise the module anew")
	require.Zero(t, m.Counters()["C_Finalize"].Calls)
	require.NoError(t, host.Finalize())
	require.NoError(t, host.Initialize())
	requireBack(t, tok, key, want)
}

// Two tokens whose objects were lost sight of together come back by one module that is initialised anew, none having to wait until the
// other can be asked for a pause.
func TestTokensOutOfSightComeBackTogether(t *testing.T) {
	firstCfg, made := newConfig(t)
	secondCfg, _ := newConfig(t)
	f := newFaulty(&firstCfg)
	g := newFaulty(&secondCfg)
	first, second := open(t, firstCfg), open(t, secondCfg)
	keys := map[*token.Token]*token.Key{first: newKey(t, first), second: newKey(t, second)}
	back := moveAway(t, filepath.Dir(directory(t, made)))
	for tok, key := range keys {
		_, err := tok.MAC(t.Context(), key, []byte("message"))
		require.ErrorIs(t, err, token.ErrGone)
	}
	back()
	initialized := f.count("C_Initialize") + g.count("C_Initialize")
	var both sync.WaitGroup
	for tok, key := range keys {
		both.Go(func() {
			assert.Eventually(t, func() bool { _, err := tok.MAC(t.Context(), key, []byte("message")); return err == nil }, patience, tick)
		})
	}
	both.Wait()
	require.Equal(t, initialized+1, f.count("C_Initialize")+g.count("C_Initialize"))
}

// The session that stays open has one user at a time, also when those who wait for it are told that the device was lost only when it is
// back: two at once used to end the process.
func TestChecksWhileTheDeviceIsLostAndBack(t *testing.T) {
	tok, m := openThrough(t)
	stop := make(chan struct{})
	var checks sync.WaitGroup
	for range 32 {
		checks.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = tok.Healthy(t.Context())
				}
			}
		})
	}
	for range 20 {
		losses := tok.State().Losses
		m.Do("lose sessions")
		require.Eventually(t, func() bool { s := tok.State(); return s.Losses > losses && s.Up }, patience, tick)
	}
	close(stop)
	checks.Wait()
	require.NoError(t, tok.Healthy(t.Context()))
}

// A call has its session when the loss is declared, and goes on meanwhile: what it finds is not believed when the token is back, since
// handles may be given out anew by then.
func TestHandlesFoundDuringALossAreNotKept(t *testing.T) {
	tok, m := openThrough(t)
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	mac, err := tok.Borrow()
	require.NoError(t, err)
	m.Do("on C_GenerateRandom fail CKR_DEVICE_ERROR times=3")
	m.Do("on C_GetSlotList hang times=1")
	require.ErrorIs(t, tok.Healthy(t.Context()), token.ErrGone)
	require.NoError(t, mac(key, []byte("message")), "the login is still there")
	m.Do("release C_GetSlotList")
	require.Eventually(t, func() bool { return tok.State().Up }, patience, tick)
	before := m.Counters()["C_FindObjectsInit"].Calls
	got, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	requireSame(t, want, got, "MAC")
	require.Equal(t, before+1, m.Counters()["C_FindObjectsInit"].Calls, "the key is looked for again")
}
