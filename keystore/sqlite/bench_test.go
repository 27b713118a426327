package sqlite_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func BenchmarkGet(b *testing.B) {
	s := mustOpen(b, newPath(b))
	fill(b, s, 1000)
	ending, cancel := context.WithCancel(b.Context())
	defer cancel()
	for name, ctx := range map[string]context.Context{"endless": context.Background(), "ending": ending} {
		b.Run("context="+name, func(b *testing.B) {
			for b.Loop() {
				_, err := s.Get(ctx, key("key-000500").Ref())
				require.NoError(b, err)
			}
		})
	}
}

func BenchmarkCommit(b *testing.B) {
	s := mustOpen(b, newPath(b))
	var version uint64
	for b.Loop() {
		var err error
		version, err = s.Commit(context.Background(), key("a").Put(version))
		require.NoError(b, err)
	}
}

// BenchmarkList shows that a page costs the same wherever it begins and however many records there are.
func BenchmarkList(b *testing.B) {
	for _, records := range []int{100, 10_000} {
		s := mustOpen(b, newPath(b))
		fill(b, s, records)
		for name, from := range map[string]int{"start": 0, "middle": records/2 - 50, "end": records - 100} {
			after := ""
			if from > 0 {
				after = fmt.Sprintf("key-%06d", from-1)
			}
			b.Run(fmt.Sprintf("records=%d/%s", records, name), func(b *testing.B) {
				for b.Loop() {
					recs, err := s.List(context.Background(), keystore.KindKey, "us-east-1", "111122223333", after, 100)
					require.NoError(b, err)
					require.NotEmpty(b, recs)
				}
			})
		}
	}
}

// BenchmarkLookup shows that the cost depends neither on other records nor on the entries of other indexes.
func BenchmarkLookup(b *testing.B) {
	s := mustOpen(b, newPath(b))
	fill(b, s, 10_000)
	for name, ask := range map[string]struct {
		index keystore.Index
		value string
		want  int
	}{
		"cka-id":          {keystore.IndexCKAID, key("key-005000").CKAID.String(), 1},
		"unfinished":      {keystore.IndexUnfinished, "0123456789abcdef0123456789abcdef", 0},
		"all-unfinished":  {keystore.IndexUnfinished, "", 0},
		"all-page-of-100": {keystore.IndexCKAID, "", 100},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				recs, err := s.Lookup(context.Background(), ask.index, ask.value, keystore.Ref{}, 100)
				require.NoError(b, err)
				require.Len(b, recs, ask.want)
			}
		})
	}
}

func BenchmarkChangedSince(b *testing.B) {
	s := mustOpen(b, newPath(b))
	fill(b, s, 100)
	now, err := s.ChangedSince(b.Context(), "")
	require.NoError(b, err)
	ask := func(since keystore.Mark) func(b *testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				_, err := s.ChangedSince(context.Background(), since)
				require.NoError(b, err)
			}
		}
	}
	b.Run("nothing", ask(now.Now))
	b.Run("everything", ask(""))
	for i := range 4000 / keystore.MaxChanges {
		var batch []keystore.Change
		for j := range keystore.MaxChanges {
			batch = append(batch, key(fmt.Sprintf("%d-%d", i, j)).Put(0))
		}
		_, err := s.Commit(b.Context(), batch...)
		require.NoError(b, err)
	}
	b.Run("4000-records", ask(now.Now))
}

func BenchmarkOpen(b *testing.B) {
	path := newPath(b)
	for b.Loop() {
		require.NoError(b, mustOpen(b, path).Close())
	}
}
