package keystoretest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
)

// Increment adds one to the number that a record holds, trying again whenever somebody else was quicker. The record
// is made when it is not there. For tests that count across goroutines and processes.
func Increment(ctx context.Context, s keystore.Store, r keystore.Ref) error {
	for {
		n := 0
		rec, err := s.Get(ctx, r)
		if err == nil {
			n, err = strconv.Atoi(string(rec.Value))
		}
		if err != nil && !errors.Is(err, keystore.ErrNotFound) {
			return err
		}
		_, err = s.Commit(ctx, keystore.Change{Op: keystore.Put, Ref: r, Expect: rec.Version, Value: fmt.Append(nil, n+1)})
		if !errors.Is(err, keystore.ErrConflict) {
			return err
		}
	}
}

func testNoLostUpdate(t *testing.T, open Opener) {
	const workers, rounds = 6, 20
	stores := []keystore.Store{open(t), open(t)}
	var group errgroup.Group
	for w := range workers {
		group.Go(func() error {
			for range rounds {
				if err := Increment(t.Context(), stores[w%2], ref("counter")); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	for _, s := range stores {
		assert.Equal(t, strconv.Itoa(workers*rounds), string(mustGet(t, s, "counter").Value))
	}
}

func testOneWinnerOfUniqueValue(t *testing.T, open Opener) {
	stores := []keystore.Store{open(t), open(t)}
	for round := range 10 {
		var winners atomic.Int32
		var group errgroup.Group
		for w := range 6 {
			group.Go(func() error {
				change := put(fmt.Sprintf("id-%d-%d", round, w), 0, "", ckaID(strconv.Itoa(round)))
				_, err := stores[w%2].Commit(t.Context(), change)
				if err == nil {
					winners.Add(1)
				}
				if errors.Is(err, keystore.ErrExists) {
					return nil
				}
				return err
			})
		}
		require.NoError(t, group.Wait())
		require.Equal(t, int32(1), winners.Load())
	}
	assert.Len(t, found(t, stores[0], keystore.IndexCKAID, ""), 10)
}

// testBatchesAreSeenWhole has one instance move a pair of records from version to version while another reads both
// in one List: it must never see one moved and the other not.
func testBatchesAreSeenWhole(t *testing.T, open Opener) {
	writer, reader := open(t), open(t)
	version := mustCommit(t, writer, put("a", 0, ""), put("b", 0, ""))
	var group errgroup.Group
	var done atomic.Bool
	group.Go(func() (err error) {
		defer done.Store(true)
		for i := 0; i < 100 && err == nil; i++ {
			version, err = writer.Commit(t.Context(), put("a", version, ""), put("b", version, ""))
		}
		return err
	})
	for last := false; !last; {
		last = done.Load() // one more look after the end
		recs, err := reader.List(t.Context(), keystore.KindKey, region, account, "", 10)
		if !assert.NoError(t, err) || !assert.Len(t, recs, 2) || !assert.Equal(t, recs[0].Version, recs[1].Version) {
			break
		}
	}
	require.NoError(t, group.Wait())
	assert.Equal(t, version, mustGet(t, reader, "b").Version)
}
