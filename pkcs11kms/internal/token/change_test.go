package token_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// generateKey is a child that makes a key, and ends.
func generateKey() error {
	id, err := hex.DecodeString(os.Getenv(childKey))
	if err != nil {
		return err
	}
	tok, err := token.Open(context.Background(), childConfig())
	if err != nil {
		return withHint(err)
	}
	_, err = tok.GenerateHMACKey(context.Background(), token.SHA256, id, "made by a child")
	return errors.Join(err, tok.Close())
}

// TestChangesOfOthersAreNotMissed changes the token after another process has: SoftHSM then takes the other's change for
// one that it knows.
func TestChangesOfOthersAreNotMissed(t *testing.T) {
	cfg, _ := newConfig(t)
	tok := open(t, cfg)
	for name, change := range map[string]func() error{
		"generate": func() error {
			_, err := tok.GenerateHMACKey(t.Context(), token.SHA256, randomBytes(t, 16), "own")
			return err
		},
		"generate pair": func() error {
			_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P256, randomBytes(t, 16), "own")
			return err
		},
		"destroy pair": func() error {
			pair, _ := newPair(t, tok, pubkey.P256)
			return tok.DestroyKeyPair(t.Context(), pair.ID(), "test pair")
		},
		"import": func() error {
			_, err := tok.ImportHMACKey(t.Context(), token.SHA256, randomBytes(t, 16), "own", randomBytes(t, 32))
			return err
		},
		"destroy": func() error { return tok.DestroyKey(t.Context(), newKey(t, tok).ID(), "test key") },
	} {
		t.Run(name, func(t *testing.T) {
			newKey(t, tok)
			id := randomBytes(t, 16)
			runChild(t, child(t, "generate", cfg, childKey+"="+hex.EncodeToString(id)))
			require.NoError(t, change())
			_, err := tok.MAC(t.Context(), tok.HMACKey(token.SHA256, id), []byte("message"))
			require.NoError(t, err)
			require.NoError(t, tok.DestroyKey(t.Context(), id, "made by a child"))
		})
	}
}

// lockFile takes the lock as another process would.
func lockFile(path string) (unlock func() error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}

func TestChangesWaitForOtherProcesses(t *testing.T) {
	tok, f, cfg := openShort(t)
	key := newKey(t, tok)
	unlock, err := lockFile(cfg.SoftHSMConf)
	require.NoError(t, err)
	made, destroyed := f.count("C_GenerateKey"), f.count("C_DestroyObject")
	for name, ctx := range contexts(t) {
		_, err = tok.GenerateHMACKey(ctx, token.SHA256, randomBytes(t, 16), "late")
		assert.ErrorIs(t, err, token.ErrBusy, name)
		assert.ErrorIs(t, tok.DestroyKey(ctx, key.ID(), "test key"), token.ErrBusy, name)
		_, err = tok.MAC(ctx, key, []byte("message"))
		assert.NoError(t, err, "a MAC does not wait")
	}
	assert.Equal(t, made, f.count("C_GenerateKey"))
	assert.Equal(t, destroyed, f.count("C_DestroyObject"))
	require.NoError(t, unlock())
	require.NoError(t, tok.DestroyKey(t.Context(), key.ID(), "test key"))
}

// openShort opens a token with little patience.
func openShort(t *testing.T) (*token.Token, *faulty, token.Config) {
	t.Helper()
	cfg, _ := newConfig(t)
	cfg.CallTimeout = 50 * time.Millisecond
	f := newFaulty(&cfg)
	return open(t, cfg), f, cfg
}

func TestWaitForOtherProcessesEndsWithItsContext(t *testing.T) {
	cfg, _ := newConfig(t)
	cfg.CallTimeout = time.Hour
	tok := open(t, cfg)
	unlock, err := lockFile(cfg.SoftHSMConf)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = tok.GenerateHMACKey(ctx, token.SHA256, randomBytes(t, 16), "late")
	assert.ErrorIs(t, err, token.ErrBusy)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, unlock())
	newKey(t, tok)
}

func TestWaitForOtherProcessesEndsWithClose(t *testing.T) {
	cfg, _ := newConfig(t)
	cfg.CallTimeout = time.Hour
	tok, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	unlock, err := lockFile(cfg.SoftHSMConf)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := tok.GenerateHMACKey(context.Background(), token.SHA256, make([]byte, 16), "late")
		ended <- err
	}()
	require.NoError(t, tok.Close())
	assert.ErrorIs(t, <-ended, token.ErrClosed)
	require.NoError(t, unlock())
}

// TestChangesTakeTurns holds two Tokens of one process, whose callers have the same module, to one change at a time, for
// as long as a call that nobody waits for any more may still change the token.
func TestChangesTakeTurns(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	one := open(t, cfg)
	cfg.CallTimeout = 50 * time.Millisecond
	two := open(t, cfg)
	before := f.count("C_GenerateKey")
	reached, free := f.hang("C_GenerateKey")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	made := make(chan error, 1)
	go func() {
		_, err := one.GenerateHMACKey(ctx, token.SHA256, make([]byte, 16), "one")
		made <- err
	}()
	<-reached
	for range 2 {
		_, err := two.GenerateHMACKey(t.Context(), token.SHA256, randomBytes(t, 16), "two")
		assert.ErrorIs(t, err, token.ErrBusy)
		cancel() // and again, while the call has no caller
	}
	var hung *token.HungError
	require.ErrorAs(t, <-made, &hung)
	assert.Equal(t, before+1, f.count("C_GenerateKey"))
	free()
	<-hung.Done()
	require.Eventually(t, func() bool {
		_, err := two.GenerateHMACKey(t.Context(), token.SHA256, randomBytes(t, 16), "two")
		_, slow := errors.AsType[*token.HungError](err) // on a busy machine
		return !slow && !errors.Is(err, token.ErrBusy) && assert.NoError(t, err)
	}, patience, tick)
}

func TestChangesGoOnWithoutTheLockFile(t *testing.T) {
	cfg, _ := newConfig(t)
	link := filepath.Join(t.TempDir(), "softhsm2.conf")
	require.NoError(t, os.Symlink(cfg.SoftHSMConf, link))
	t.Setenv("SOFTHSM2_CONF", link)
	cfg.SoftHSMConf = link
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	tok := open(t, cfg)
	newKey(t, tok)
	assert.Empty(t, log.String())
	require.NoError(t, os.Remove(link))
	newKey(t, tok)
	newKey(t, tok)
	assert.Equal(t, 1, strings.Count(log.String(), "without the lock"), "it warns once")
	assert.Contains(t, log.String(), link)
}

// useOwnConfiguration is a user who has a configuration of their own and no SOFTHSM2_CONF.
func useOwnConfiguration() error {
	if err := os.Unsetenv("SOFTHSM2_CONF"); err != nil {
		return err
	}
	cfg := childConfig()
	cfg.CallTimeout = 50 * time.Millisecond
	tok, err := token.Open(context.Background(), cfg)
	if err != nil {
		return withHint(err)
	}
	unlock, err := lockFile(filepath.Join(os.Getenv("HOME"), ".config", "softhsm2", "softhsm2.conf"))
	if err != nil {
		return err
	}
	_, err = tok.GenerateHMACKey(context.Background(), token.SHA256, make([]byte, 16), "late")
	if !errors.Is(err, token.ErrBusy) {
		err = fmt.Errorf("the lock on the user's configuration is not respected: %w", err)
	} else {
		err = nil
	}
	return errors.Join(err, unlock(), tok.Close())
}

func TestLockOnTheUsersConfiguration(t *testing.T) {
	cfg, _ := newConfig(t)
	home := t.TempDir()
	dir := filepath.Join(home, ".config", "softhsm2")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	text, err := os.ReadFile(cfg.SoftHSMConf)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "softhsm2.conf"), text, 0o600))
	runChild(t, child(t, "ownconf", cfg, "HOME="+home))
}
