package token_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

func waiting(c *token.Config) { c.Wait = true }

// An application often starts before its HSM: the Token is there, says what is missing, and serves when the device is there.
func TestOpenBeforeTheDeviceIsThere(t *testing.T) {
	for how, ways := range map[string][2]string{
		"no slots":     {"down", "up"},
		"no token":     {"eject", "insert"},
		"no login":     {"on C_Login fail CKR_DEVICE_ERROR", "clear"},
		"login hangs":  {"on C_Login hang times=1", "release C_Login"},
		"begin hangs":  {"on C_Initialize hang times=1", "release C_Initialize"},
		"module fails": {"on C_Initialize fail CKR_GENERAL_ERROR", "clear"},
	} {
		t.Run(how, func(t *testing.T) {
			cfg, m := newConfigThrough(t)
			waiting(&cfg)
			cfg.CallTimeout = 2 * time.Second
			m.AtStart(ways[0])
			tok, err := token.Open(t.Context(), cfg)
			require.NoError(t, err)
			t.Cleanup(func() {
				require.NoError(t, tok.Close())
				assert.Empty(t, m.Violations())
			})
			require.False(t, tok.State().Up)
			require.ErrorIs(t, tok.Healthy(t.Context()), token.ErrGone)
			_, err = tok.NewStream(t.Context(), tok.HMACKey(token.SHA256, []byte("any")))
			require.ErrorIs(t, err, token.ErrGone)
			require.ErrorContains(t, err, "it was not reached yet")
			m.Do(ways[1])
			require.Eventually(t, func() bool { return tok.State().Up }, 5*time.Second, tick, "%v", tok.State().Err)
			require.NotZero(t, tok.Info())
			require.NoError(t, tok.Capabilities().For(token.SHA256).Err())
			_, err = tok.MAC(t.Context(), newKey(t, tok), []byte("message"))
			require.NoError(t, err)
			require.NoError(t, tok.Healthy(t.Context()))
		})
	}
}

// What hangs is named.
func TestOpenSaysWhatItWaitsFor(t *testing.T) {
	cfg, m := newConfigThrough(t)
	waiting(&cfg)
	cfg.CallTimeout = 100 * time.Millisecond
	m.AtStart("on C_Login hang times=1")
	tok, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return tok.State().Waiting == "C_Login" }, patience, tick)
	require.ErrorContains(t, tok.State().Err, "waiting for C_Login since ")
	require.ErrorContains(t, tok.Close(), "still running")
	m.Do("release C_Login")
	m.Await("C_Finalize", func(n faultp11.Counters) bool { return n.Calls == 1 })
	require.Empty(t, m.Violations())
}

// What a person must mend is an error of Open, and leaves nothing behind.
func TestOpenDoesNotWaitForWhatAPersonMustMend(t *testing.T) {
	for reason, change := range map[token.Reason]func(*token.Config, *faultp11.Module){
		token.BadURI:           func(c *token.Config, _ *faultp11.Module) { c.URI = "pkcs11:" },
		token.ModuleMissing:    func(c *token.Config, _ *faultp11.Module) { c.URI = "pkcs11:?module-path=/none.so" },
		token.SerialMismatch:   func(c *token.Config, _ *faultp11.Module) { c.Serial = "another" },
		token.PINRefused:       func(_ *token.Config, m *faultp11.Module) { m.AtStart("pin-prefix crypto:") },
		token.PINLocked:        func(_ *token.Config, m *faultp11.Module) { m.AtStart("token flags=+CKF_USER_PIN_LOCKED") },
		token.PINAttemptUnsafe: func(_ *token.Config, m *faultp11.Module) { m.AtStart("token flags=+CKF_USER_PIN_COUNT_LOW") },
		token.PINSource: func(c *token.Config, _ *faultp11.Module) {
			c.PIN = func(context.Context) (string, error) { return "", errors.New("none") }
		},
	} {
		t.Run(reason.String(), func(t *testing.T) {
			cfg, m := newConfigThrough(t)
			waiting(&cfg)
			change(&cfg, m)
			_, err := token.Open(t.Context(), cfg)
			refused, ok := errors.AsType[*token.OpenError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, reason, refused.Reason)
			require.Eventually(t, func() bool { return ourGoroutines() == 0 }, patience, tick)
		})
	}
}

// Whoever ends the context while a token is opened is answered at once.
func TestOpenWaitingEndsWithItsContext(t *testing.T) {
	cfg, m := newConfigThrough(t)
	waiting(&cfg)
	cfg.CallTimeout = time.Hour
	m.AtStart("on C_Login hang times=1")
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan error, 1)
	go func() {
		_, err := token.Open(ctx, cfg)
		opened <- err
	}()
	m.AwaitLoaded()
	m.Await("C_Login", func(n faultp11.Counters) bool { return n.Hanging == 1 })
	cancel()
	err := <-opened
	require.ErrorIs(t, err, context.Canceled)
	hung, ok := errors.AsType[*token.HungError](err)
	require.True(t, ok)
	m.Do("release C_Login")
	<-hung.Done()
	require.Empty(t, m.Violations())
}

// Who opens a token and does not wait for one that is away is told what hangs, and is answered when its context ends.
func TestOpenTellsWhatTakesLong(t *testing.T) {
	for _, function := range []string{"C_Initialize", "C_Login"} {
		cfg, m := newConfigThrough(t)
		lines := &linesOfLog{}
		cfg.Logger = slog.New(slog.NewTextHandler(lines, nil))
		m.AtStart("on " + function + " hang times=1")
		ctx, cancel := context.WithCancel(t.Context())
		opened := make(chan error, 1)
		go func() {
			_, err := token.Open(ctx, cfg)
			opened <- err
		}()
		require.Eventually(t, func() bool { return strings.Contains(lines.String(), "waiting_for="+function) }, patience, tick)
		cancel()
		hung, ok := errors.AsType[*token.HungError](<-opened)
		require.True(t, ok)
		m.Do("release " + function)
		<-hung.Done()
	}
}

// linesOfLog takes lines from several goroutines.
type linesOfLog struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *linesOfLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

// atInfo is a log of what operators are shown.
func (l *linesOfLog) atInfo() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func contains(l *linesOfLog, text string) bool { return strings.Contains(l.String(), text) }

func (l *linesOfLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A login that fails in a way which says nothing of the PIN is not tried again and again: a token could count it.
func TestLoginsThatFailAreFew(t *testing.T) {
	cfg, m := newConfigThrough(t)
	tok := open(t, cfg)
	m.Do("on C_Login fail CKR_GENERAL_ERROR")
	logins := m.Counters()["C_Login"].Calls
	m.Do("lose device")
	require.Error(t, tok.Healthy(t.Context()))
	begin := time.Now()
	require.Eventually(t, func() bool { return m.Counters()["C_Initialize"].Calls > 10 }, patience, tick)
	most := int(time.Since(begin)/(500*time.Millisecond)) + 1
	require.LessOrEqual(t, m.Counters()["C_Login"].Calls-logins, most)
	m.Do("clear")
	require.Eventually(t, func() bool { return tok.Healthy(t.Context()) == nil }, patience, tick)
}

// A token whose user PIN was never set says so in its own words, at C_Login if not before.
func TestLoginWithoutAUserPIN(t *testing.T) {
	cfg, m := newConfigThrough(t)
	m.AtStart("on C_Login fail CKR_USER_PIN_NOT_INITIALIZED")
	_, err := token.Open(t.Context(), cfg)
	refused, ok := errors.AsType[*token.OpenError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, token.NotInitialized, refused.Reason)
}

// What can mean nothing but the PIN counts as its refusal.
func TestPINsThatAreRefusedOtherwise(t *testing.T) {
	for _, rv := range []string{"CKR_FUNCTION_REJECTED", "0x1B8"} {
		cfg, m := newConfigThrough(t)
		m.AtStart("on C_Login fail " + rv)
		_, err := token.Open(t.Context(), cfg)
		refused, ok := errors.AsType[*token.OpenError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, token.PINRefused, refused.Reason)
	}
}
