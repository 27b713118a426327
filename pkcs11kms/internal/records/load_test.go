package records

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// contended is a store whose Commits are not made: they wait in vain while something happens, and fail.
type contended struct {
	keystore.Store
	meanwhile func()
	failure   error
}

func (s *contended) Commit(context.Context, ...keystore.Change) (uint64, error) {
	s.meanwhile()
	return 0, s.failure
}

// A Commit that waited in vain while another process's came through tells of load, and no attempt to write is due. One that
// waited behind nobody makes an attempt due, and so does any other failure, which counts at once.
func TestCommitsOfOtherProcessesAreLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, sqlite.Create(path))
	open := func() *sqlite.Store {
		store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, store.Close()) })
		return store
	}
	other := open()
	errDisk := errors.New("the disk is gone")
	for _, tc := range []struct {
		failure error
		load    bool // another process writes meanwhile
		due     int
		fails   error
	}{
		{keystore.ErrBusy, true, 0, nil},
		{context.DeadlineExceeded, true, 0, nil},
		{keystore.ErrBusy, false, 1, nil},
		{context.DeadlineExceeded, false, 1, nil},
		{errDisk, true, 1, errDisk},
		{keystore.ErrConflict, false, 0, nil},
		{keystore.ErrExists, false, 0, nil},
		{keystore.ErrClosed, false, 0, nil},
		{context.Canceled, false, 0, nil},
	} {
		store := &contended{Store: open(), failure: tc.failure}
		c := New(store, slog.New(slog.DiscardHandler), time.Now)
		require.NoError(t, c.Confirm(t.Context()))
		store.meanwhile = func() {
			if tc.load {
				_, version, err := ReadCounter(t.Context(), other, "", "", "theirs")
				require.NoError(t, err)
				_, err = other.Commit(t.Context(), keystore.Counter{Name: "theirs"}.Put(version))
				require.NoError(t, err)
			}
			require.NoError(t, c.Confirm(t.Context()))
		}
		_, err := c.Commit(t.Context(), keystore.Counter{Name: "mine"}.Put(0))
		require.ErrorIs(t, err, tc.failure)
		require.Len(t, c.writes.suspect, tc.due, "%v, load: %v", tc.failure, tc.load)
		require.Equal(t, tc.fails, c.WriteFailure())
	}
}
