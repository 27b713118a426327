package token_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// expect makes an error of a condition that does not hold, for the children, which have no testing.T.
func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func initialized(c *pkcs11.Ctx) bool {
	_, err := c.GetInfo()
	return err == nil
}

func bareModule() (*pkcs11.Ctx, error) {
	uri, err := token.ParseURI(os.Getenv(childURI))
	if err != nil {
		return nil, err
	}
	return pkcs11.New(uri.ModulePath), nil
}

// useHostOwnedModule is an application that initialises the module itself and then uses this package.
func useHostOwnedModule() error {
	c, err := bareModule()
	if err != nil {
		return err
	}
	if err := c.Initialize(); err != nil {
		return err
	}
	tok, err := token.Open(context.Background(), childConfig())
	if err != nil {
		return withHint(err)
	}
	host := tok.Info().HostInitialized
	_, randomErr := tok.Random(context.Background(), 8)
	return errors.Join(
		expect(host, "Info does not say that the host has initialised the module"), randomErr, tok.Close(),
		expect(initialized(c), "the host's module was finalized"), c.Finalize(),
		openAndCloseOften(), expect(!initialized(c), "the module stays initialised after its last user"))
}

func TestHostOwnedModule(t *testing.T) {
	cfg, _ := newConfig(t)
	runChild(t, child(t, "host", cfg))
}

// shareModule opens a token twice in one process: the module ends with the last user.
func shareModule() error {
	c, err := bareModule()
	if err != nil {
		return err
	}
	one, err := token.Open(context.Background(), childConfig())
	if err != nil {
		return withHint(err)
	}
	two, err := token.Open(context.Background(), childConfig())
	if err != nil {
		return withHint(err)
	}
	err = errors.Join(one.Close(), expect(initialized(c), "the first Close has finalized the module of the second user"),
		two.Healthy(context.Background()), two.Close(), expect(!initialized(c), "the module stays initialised after its last user"))
	return err
}

// finalizeBehindTheBack lets another part of the process finalize the module under an open token, and a second Token initialise it
// anew. Handles count from one again afterwards, so the old token must not use its own any more; it connects again.
func finalizeBehindTheBack() error {
	c, err := bareModule()
	if err != nil {
		return err
	}
	cfg := childConfig()
	f := newFaulty(&cfg)
	old, err := token.Open(context.Background(), cfg)
	if err != nil {
		return withHint(err)
	}
	key, err := old.GenerateHMACKey(context.Background(), token.SHA256, []byte("0123456789abcdef"), "test key")
	if err != nil {
		return err
	}
	want, err := old.MAC(context.Background(), key, []byte("message"))
	if err != nil { // so that a session lies idle
		return err
	}
	if err := c.Finalize(); err != nil {
		return err
	}
	fresh, err := token.Open(context.Background(), childConfig())
	if err != nil {
		return withHint(err)
	}
	closed, begun := f.count("C_CloseSession"), len(f.began)
	got, macErr := old.MAC(context.Background(), key, []byte("message"))
	return errors.Join(macErr, expect(string(got) == string(want), "another MAC"),
		expect(old.State().Losses == 1, "the old token has noticed nothing"),
		expect(f.count("C_CloseSession") == closed, "the old token has closed a session: its handle is another's by now"),
		expect(len(f.began) == begun+1, "the old token has used a session of its own from before"),
		fresh.Healthy(context.Background()), old.Close(), fresh.Healthy(context.Background()), fresh.Close(),
		expect(!initialized(c), "the module stays initialised after its last user"))
}

func TestSessionsOfALostModuleAreNotUsed(t *testing.T) {
	cfg, _ := newConfig(t)
	runChild(t, child(t, "finalized", cfg))
}

func TestModuleEndsWithItsLastUser(t *testing.T) {
	cfg, _ := newConfig(t)
	runChild(t, child(t, "shared", cfg))
}

// ourGoroutines returns how many goroutines run code of the package.
func ourGoroutines() int {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	n := 0
	for _, g := range strings.Split(string(stacks), "\n\n") {
		if strings.Contains(g, "internal/token.(") || strings.Contains(g, "internal/token.Open") {
			n++
		}
	}
	return n
}

func TestCloseEndsEverything(t *testing.T) {
	require.Zero(t, ourGoroutines(), "left by another test")
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	tok, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	key := newKey(t, tok)
	var calls []<-chan error
	for range 16 {
		calls = append(calls, sign(t.Context(), tok, key))
	}
	for _, c := range calls {
		require.NoError(t, <-c)
	}
	require.NoError(t, tok.Healthy(t.Context()))
	assert.Positive(t, ourGoroutines())
	require.NoError(t, tok.Close())
	require.NoError(t, tok.Close(), "a second Close does nothing")
	require.Eventually(t, func() bool { return ourGoroutines() == 0 }, patience, tick)
	assert.Equal(t, f.count("C_OpenSession"), f.count("C_CloseSession"))
	assert.Equal(t, 1, f.count("C_Finalize"))

	_, err = tok.MAC(t.Context(), key, []byte("message"))
	assert.ErrorIs(t, err, token.ErrClosed)
	_, err = tok.NewStream(t.Context(), key)
	assert.ErrorIs(t, err, token.ErrClosed)
	_, err = tok.GenerateHMACKey(t.Context(), token.SHA256, randomBytes(t, 16), "late")
	assert.ErrorIs(t, err, token.ErrClosed)
	assert.ErrorIs(t, tok.Healthy(t.Context()), token.ErrClosed)
	open(t, cfg) // which initialises the module anew
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	assert.ErrorIs(t, err, token.ErrClosed)
}

func TestCloseWaitsForCalls(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	cfg.MaxSessions = 1
	tok, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	key := newKey(t, tok)
	reached, free := f.hang("C_Sign")
	running := sign(context.Background(), tok, key)
	<-reached
	waiting := sign(context.Background(), tok, key)
	require.Eventually(t, func() bool { return tok.Stats().Waiting == 1 }, patience, tick)
	closed := make(chan error, 1)
	go func() { closed <- tok.Close() }()
	assert.ErrorIs(t, <-waiting, token.ErrClosed)
	assert.Zero(t, f.count("C_Finalize"))
	free()
	require.NoError(t, <-running, "a call that has begun is finished")
	require.NoError(t, <-closed)
	assert.Equal(t, 1, f.count("C_Finalize"))
	assert.Equal(t, f.count("C_OpenSession"), f.count("C_CloseSession"), "the session that was in use too")
}

// The module is finalized when the last of several calls has ended, and not before.
func TestCloseWaitsForEveryCall(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	tok, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	key := newKey(t, tok)
	arrived, gates := make(chan struct{}), make(chan struct{})
	f.on("C_Sign", func() error {
		arrived <- struct{}{}
		<-gates
		return nil
	})
	calls := make(chan error, 2)
	for range cap(calls) {
		go func() {
			_, err := tok.MAC(context.Background(), key, []byte("message"))
			calls <- err
		}()
		<-arrived
	}
	closed := make(chan error, 1)
	go func() { closed <- tok.Close() }()
	require.Eventually(t, func() bool { return errors.Is(tok.Healthy(t.Context()), token.ErrClosed) }, patience, tick)
	gates <- struct{}{}
	require.NoError(t, <-calls)
	require.Eventually(t, func() bool { return tok.Stats().InUse == 1 }, patience, tick)
	assert.Zero(t, f.count("C_Finalize"))
	gates <- struct{}{}
	require.NoError(t, <-calls)
	require.NoError(t, <-closed)
	assert.Equal(t, 1, f.count("C_Finalize"))
}

func TestCloseWaitsForAHealthCheck(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	cfg.CallTimeout = 50 * time.Millisecond
	tok, err := token.Open(context.Background(), cfg)
	require.NoError(t, err)
	reached, free := f.hang("C_GetSessionInfo")
	checked := make(chan error, 1)
	go func() { checked <- tok.Healthy(context.Background()) }()
	<-reached
	require.ErrorContains(t, tok.Close(), "calls into the module are still running")
	assert.Zero(t, f.count("C_Finalize"), "a module is not finalized under a running call")
	free()
	require.NoError(t, <-checked)
	require.Eventually(t, func() bool { return f.count("C_Finalize") == 1 }, patience, tick)
	require.Eventually(t, func() bool { return ourGoroutines() == 0 }, patience, tick)
}

// A call that fails after Close has begun, and would ask the device, is told of the Close and does not keep it from its end.
func TestCloseEndsAfterACallThatFailsMeanwhile(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	cfg.CallTimeout = patience
	tok, err := token.Open(context.Background(), cfg)
	require.NoError(t, err)
	key := newKey(t, tok)
	reached, free := f.hang("C_Sign")
	underWay := sign(context.Background(), tok, key) // so that Close waits
	<-reached
	begun, gate := make(chan struct{}), make(chan struct{})
	f.on("C_Sign", func() error {
		close(begun)
		<-gate
		return pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)
	})
	fails := sign(context.Background(), tok, key)
	<-begun
	closed := make(chan error, 1)
	go func() { closed <- tok.Close() }()
	require.Eventually(t, func() bool { return errors.Is(tok.Healthy(context.Background()), token.ErrClosed) }, patience, tick)
	close(gate)
	require.ErrorIs(t, <-fails, token.ErrClosed)
	free()
	require.NoError(t, <-underWay)
	require.NoError(t, <-closed)
	assert.Equal(t, 1, f.count("C_Finalize"))
}

func TestCloseDoesNotWaitForAHungCall(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	cfg.CallTimeout = 50 * time.Millisecond
	tok, err := token.Open(context.Background(), cfg)
	require.NoError(t, err)
	key := newKey(t, tok)
	reached, free := f.hang("C_Sign")
	err = <-sign(t.Context(), tok, key)
	var hung *token.HungError
	require.ErrorAs(t, err, &hung)
	<-reached
	require.ErrorContains(t, tok.Close(), "calls into the module are still running")
	assert.Zero(t, f.count("C_Finalize"), "a module is not finalized under a running call")
	free()
	<-hung.Done()
	require.Eventually(t, func() bool { return f.count("C_Finalize") == 1 }, patience, tick, "what Close left is done when the call is back")
	require.Eventually(t, func() bool { return ourGoroutines() == 0 }, patience, tick)
}
