package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/keystoretest"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// newPath creates a store in a directory of its own and names its file.
func newPath(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "kms.db")
	require.NoError(tb, sqlite.Create(path))
	return path
}

// mustOpen opens a store and closes it after the test.
func mustOpen(tb testing.TB, path string) *sqlite.Store {
	tb.Helper()
	s, err := sqlite.Open(tb.Context(), path, sqlite.Options{})
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = s.Close() }) // tests that have an interest in the answer close it themselves
	return s
}

func TestConformance(t *testing.T) {
	keystoretest.Run(t, func(t *testing.T) keystoretest.Opener {
		path := newPath(t)
		return func(t *testing.T) keystore.Store { return mustOpen(t, path) }
	})
}
