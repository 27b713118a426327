package token_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/require"
)

// Some things can be shown only in a process of its own. childVariable tells the test binary which part of childParts it
// is to play instead of running tests.
const (
	childVariable = "TOKEN_TEST_CHILD"
	childURI      = "TOKEN_TEST_URI"
	childKey      = "TOKEN_TEST_KEY"
)

var childParts = map[string]func() error{
	"openclose": openAndCloseOften,
	"destroy":   destroyKey,
	"generate":  generateKey,
	"ownconf":   useOwnConfiguration,
	"host":      useHostOwnedModule,
	"shared":    shareModule,
	"finalized": finalizeBehindTheBack,
}

func TestMain(m *testing.M) {
	if part := os.Getenv(childVariable); part != "" {
		if err := childParts[part](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child prepares a process of this test binary that plays a part on a token.
func child(t testing.TB, part string, cfg token.Config, more ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+part, childURI+"="+cfg.URI, "SOFTHSM2_CONF="+cfg.SoftHSMConf)
	cmd.Env = append(cmd.Env, more...)
	cmd.Stderr = &bytes.Buffer{}
	return cmd
}

// runChild runs it to its end.
func runChild(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	err := cmd.Run()
	require.NoErrorf(t, err, "child: %s", cmd.Stderr)
}

func childConfig() token.Config { return token.Config{URI: os.Getenv(childURI)} }

// withHint shows what a person would see.
func withHint(err error) error {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return fmt.Errorf("%w\n%s", err, h.Hint())
	}
	return err
}

func openAndCloseOften() error {
	for i := range 20 {
		tok, err := token.Open(context.Background(), childConfig())
		if err != nil {
			return fmt.Errorf("open %d: %w", i, withHint(err))
		}
		caps := tok.Capabilities()
		for _, h := range token.Hashes() {
			if err := caps.For(h).Err(); err != nil {
				return fmt.Errorf("probe %d, %v: %w", i, h, err)
			}
		}
		if !caps.AllowedMechanisms || !caps.ValueReadRefused {
			return fmt.Errorf("probe %d: %+v", i, caps)
		}
		if err := tok.Close(); err != nil {
			return fmt.Errorf("close %d: %w", i, err)
		}
	}
	return nil
}

func destroyKey() error {
	id, err := hex.DecodeString(os.Getenv(childKey))
	if err != nil {
		return err
	}
	tok, err := token.Open(context.Background(), childConfig())
	if err != nil {
		return withHint(err)
	}
	return errors.Join(tok.DestroyKey(context.Background(), id, "test key"), tok.Close())
}

// TestProcessesStartTogether holds SoftHSM's start-up race: a process that logs in rewrites the token's file, and one that
// starts in that moment sees no token.
func TestProcessesStartTogether(t *testing.T) {
	cfg, _ := newConfig(t)
	var children []*exec.Cmd
	for range 8 {
		cmd := child(t, "openclose", cfg)
		require.NoError(t, cmd.Start())
		children = append(children, cmd)
	}
	for i, cmd := range children {
		if err := cmd.Wait(); err != nil {
			t.Errorf("process %d: %v: %s", i, err, strings.TrimSpace(cmd.Stderr.(*bytes.Buffer).String()))
		}
	}
}
