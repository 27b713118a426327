package sealed_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

// stored are the records that the audit log is told of.
func stored(t *testing.T, s *sealed.Store) (map[string]audit.Stored, audit.StoreMoment) {
	t.Helper()
	require.NoError(t, s.Open(t.Context()))
	now, err := s.Stored(t.Context())
	require.NoError(t, err)
	return now.Records, now.StoreMoment
}

// The hash of a checkpoint is that of all records that the log is told of, and the next one's follows from it by what was written, in
// whatever order that is counted.
func TestCheckpointFollowsFromTheOneBefore(t *testing.T) {
	s, below := newSealed(t)
	alias := keystore.Alias{Region: region, Account: account, Name: "alias/a", Target: "one"}
	ctx := audit.CollectWrites(t.Context())
	first := mustCommit(t, s, alias.Put(0))
	before, err := s.Checkpoint(t.Context())
	require.NoError(t, err)
	records, now := stored(t, s)
	require.Equal(t, first, before.Commit)
	require.Equal(t, "30313233343536373839616263646566", before.Store)
	require.EqualValues(t, 1, before.Epoch)
	told := len(samples()) - 3 + 1 // not of the region, the counter and the use of a key; and the alias
	require.EqualValues(t, told, before.Records)
	require.Len(t, records, told)
	hash := now.Hash.Nonce(before.Nonce)
	for name, r := range records {
		hash = hash.Plus(now.Hash.Element(name, r))
	}
	require.Equal(t, hash, before.Hash)

	alias.Target = "two"
	second, err := s.Commit(ctx, alias.Put(first))
	require.NoError(t, err)
	other := keystore.Alias{Region: region, Account: account, Name: "alias/b", Target: "two"}
	_, err = s.Commit(ctx, keystore.Change{Op: keystore.Delete, Ref: alias.Ref(), Expect: second}, other.Put(0))
	require.NoError(t, err)
	after, err := s.Checkpoint(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, before.Nonce, after.Nonce)
	hash = before.Hash.Minus(now.Hash.Nonce(before.Nonce)).Plus(now.Hash.Nonce(after.Nonce))
	for _, w := range audit.WritesOf(ctx).Last {
		if w.Was != nil {
			hash = hash.Minus(now.Hash.Element(w.Record, *w.Was))
		}
		if !w.Deleted {
			hash = hash.Plus(now.Hash.Element(w.Record, audit.Stored{Revision: w.Revision, SHA256: w.SHA256}))
		}
	}
	require.Equal(t, hash, after.Hash)
	locked, err := sealed.New(t.Context(), below, sealed.Options{})
	require.NoError(t, err)
	_, err = locked.Checkpoint(t.Context())
	require.ErrorIs(t, err, sealed.ErrLocked)
}

// Each part of a record counts, and no sum says what it is of without the key.
func TestElementsOfCheckpoints(t *testing.T) {
	s, below := newSealed(t)
	_, now := stored(t, s)
	one := now.Hash.Element("key/a", audit.Stored{Revision: 1})
	for _, other := range []audit.Sum{now.Hash.Element("key/b", audit.Stored{Revision: 1}),
		now.Hash.Element("key/a", audit.Stored{Revision: 2}),
		now.Hash.Element("key/a", audit.Stored{Revision: 1, SHA256: [32]byte{1}}), now.Hash.Nonce([]byte("key/a"))} {
		require.NotEqual(t, one, other)
	}
	root := newRoot()
	root.Epoch = 2
	seal(t, below, root)
	again := open(t, below, sealed.Options{})
	require.NoError(t, again.Open(t.Context()))
	_, now = stored(t, again)
	require.NotEqual(t, one, now.Hash.Element("key/a", audit.Stored{Revision: 1}), "by another key")
	_, err := s.Checkpoint(t.Context())
	require.ErrorIs(t, err, sealed.ErrChanged, "who has not seen that all was sealed anew counts nothing")
}

// A checkpoint ends with its context, and is not of half of the records.
func TestCheckpointIsEnded(t *testing.T) {
	s, _ := newSealed(t)
	require.NoError(t, s.Open(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Checkpoint(ctx)
	require.ErrorIs(t, err, context.Canceled)
}
