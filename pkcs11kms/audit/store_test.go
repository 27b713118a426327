package audit

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// writing is the end of a call that has written records.
func writing(wrote ...Wrote) Event {
	ctx := CollectWrites(context.Background())
	for _, w := range wrote {
		NoteWrite(ctx, w)
	}
	return Event{Kind: Call, Service: "kms", Operation: "TagResource", Wrote: WritesOf(ctx)}
}

func wrote(name string, revision uint64) Wrote {
	return Wrote{Record: name, Revision: revision, SHA256: sha256.Sum256(fmt.Append(nil, name, revision))}
}

func stored(w Wrote) Stored { return Stored{Revision: w.Revision, SHA256: w.SHA256} }

// What was written under one context is told in its order, a bounded number of it, and what nobody collects is noted nowhere.
func TestCollectedWrites(t *testing.T) {
	NoteWrite(t.Context(), wrote("key/a", 1))
	require.Zero(t, WritesOf(t.Context()))
	ctx := CollectWrites(t.Context())
	NoteWrite(ctx, wrote("key/a", 1))
	NoteWrite(ctx, wrote("key/b", 2))
	NoteWrite(ctx, wrote("key/a", 3))
	require.Equal(t, Writes{Last: []Wrote{wrote("key/a", 1), wrote("key/b", 2), wrote("key/a", 3)}}, WritesOf(ctx))
	require.Zero(t, WritesOf(CollectWrites(ctx)), "of another call")
	for i := range 100 {
		NoteWrite(ctx, wrote(fmt.Sprint("key/", i), 1))
	}
	all := WritesOf(ctx)
	require.Len(t, all.Last, 64, "as many as one change has")
	require.Equal(t, 39, all.More)
	require.Equal(t, wrote("key/99", 1), all.Last[63])
}

// What was written stands beside what else additionalEventData shows.
func TestRecordOfWrites(t *testing.T) {
	e := writing(wrote("key/r/1/k", 7), Wrote{Record: "alias/r/1/alias/a", Revision: 8, Deleted: true})
	for _, more := range []map[string]any{nil, {"ckaId": "01"}} {
		e.Additional = more
		var record struct {
			Data struct {
				CKAID   string `json:"ckaId"`
				Records []any  `json:"storeRecords"`
			} `json:"additionalEventData"`
		}
		require.NoError(t, json.Unmarshal(AppendRecord(nil, &e, time.Now()), &record))
		require.Equal(t, more != nil, record.Data.CKAID == "01")
		require.Equal(t, []any{
			map[string]any{"record": "key/r/1/k", "revision": 7.0, "sha256": fmt.Sprintf("%x", wrote("key/r/1/k", 7).SHA256), "epoch": 0.0},
			map[string]any{"record": "alias/r/1/alias/a", "revision": 8.0, "deleted": true, "epoch": 0.0},
		}, record.Data.Records)
	}
}

// However much was written, a record has the bytes that its intent has kept for it.
func TestRecordsOfManyWritesAreBounded(t *testing.T) {
	e := Event{Kind: Intent, Operation: "ScheduleKeyDeletion"}
	intent := len(AppendRecord(nil, &e, time.Time{}))
	ctx := CollectWrites(t.Context())
	for i := range 100 {
		NoteWrite(ctx, wrote(fmt.Sprint(strings.Repeat("a", 400), i), 1<<63))
	}
	e.Kind, e.Wrote = Call, WritesOf(ctx)
	require.LessOrEqual(t, len(AppendRecord(nil, &e, time.Time{})), maxOutcome(intent)-maxField-maxText)
}

// The store is compared with what was written last to each record, by whatever process and chain.
func TestCompareStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	base := uint64(time.Now().UnixMicro())
	second := func(r uint64) uint64 { return base + r }
	old, now, gone := wrote("key/a", second(1)), wrote("key/a", second(2)), Wrote{Record: "key/gone", Revision: second(3), Deleted: true}
	a, b := mustOpen(t, dir, Options{}), mustOpen(t, dir, Options{})
	require.NoError(t, a.Record(t.Context(), writing(now, wrote("key/b", 5))))
	require.NoError(t, b.Record(t.Context(), writing(old, wrote("key/gone", second(1)))))
	require.NoError(t, a.Record(t.Context(), writing(gone)))
	require.NoError(t, errors.Join(a.Close(), b.Close()))
	right := map[string]Stored{"key/a": stored(now), "key/b": stored(wrote("key/b", 5)), "key/unknown": {}}
	for what, change := range map[string]func(map[string]Stored){
		"": func(map[string]Stored) {},
		"the record key/a of the store is not there, and was written":       func(s map[string]Stored) { delete(s, "key/a") },
		"the record key/a of the store is older than what was written last": func(s map[string]Stored) { s["key/a"] = stored(old) },
		"the record key/a of the store is another one than what was written last": func(s map[string]Stored) {
			s["key/a"] = Stored{Revision: now.Revision}
		},
		"the record key/gone of the store is there, and was deleted": func(s map[string]Stored) {
			s["key/gone"] = Stored{Revision: 1}
		},
		" ": func(s map[string]Stored) { s["key/a"] = Stored{Revision: now.Revision + 1} }, // written since
	} {
		found, err := CompareStore(dir, nil, func() (StoredRecords, error) {
			s := map[string]Stored{}
			for name, one := range right {
				s[name] = one
			}
			change(s)
			return StoredRecords{Records: s}, nil
		})
		require.NoError(t, err)
		require.Equal(t, 3, found.Compared)
		if what = strings.TrimSpace(what); what == "" {
			require.Empty(t, found.Problems)
			continue
		}
		require.Equal(t, []string{what}, found.Problems)
	}
}

// A record that was edited is named as that, and nothing else is told of it.
func TestCompareStoreEdited(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{})
	require.NoError(t, l.Record(t.Context(), writing(wrote("key/a", uint64(time.Now().UnixMicro())))))
	found, err := CompareStore(dir, nil, func() (StoredRecords, error) { return StoredRecords{Edited: []string{"key/a"}}, nil })
	require.NoError(t, err)
	require.Empty(t, found.Problems)
	require.Equal(t, []string{"key/a"}, found.Edited)
}

// What is deleted while the store is compared is no fault.
func TestCompareStoreMeanwhile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{})
	at := uint64(time.Now().UnixMicro())
	require.NoError(t, l.Record(t.Context(), writing(wrote("key/a", at))))
	found, err := CompareStore(dir, nil, func() (StoredRecords, error) {
		return StoredRecords{}, l.Record(t.Context(), writing(Wrote{Record: "key/a", Revision: at + 1, Deleted: true}))
	})
	require.NoError(t, err)
	require.Empty(t, found.Problems)
}

// What was written before a restore is not missed after it, and so what was not there when the records were sealed as they were.
func TestCompareStoreMadeAnew(t *testing.T) {
	for _, how := range []string{"RestoreStore", "SealRecords"} {
		t.Run(how, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "audit")
			l := mustOpen(t, dir, Options{})
			missed := func() []string {
				found, err := CompareStore(dir, nil, func() (StoredRecords, error) { return StoredRecords{}, nil })
				require.NoError(t, err)
				return found.Problems
			}
			require.NoError(t, l.Record(t.Context(), writing(wrote("key/b", uint64(time.Now().UnixMicro())))))
			require.Len(t, missed(), 1)
			anew := Event{Kind: Intent, Service: ownService, Operation: how}
			require.NoError(t, l.Record(t.Context(), anew))
			require.Len(t, missed(), 1, "it was begun")
			anew.Kind, anew.Err = ServiceEvent, errors.New("failed")
			require.NoError(t, l.Record(t.Context(), anew))
			require.Len(t, missed(), 1, "it has failed")
			anew.Err, anew.Additional = nil, EndedAt(time.Now().Add(time.Microsecond)) // most often in the same second
			require.NoError(t, l.Record(t.Context(), anew))
			require.Empty(t, missed())
			require.NoError(t, l.Record(t.Context(), writing(wrote("key/b", uint64(time.Now().UnixMicro()+10_000_000)))))
			require.Len(t, missed(), 1, "what was written since")
		})
	}
}
