package audit

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// plainHash is a Multiset whose key everybody knows.
type plainHash struct{}

func (plainHash) Nonce(nonce []byte) Sum { return sha256.Sum256(append([]byte{0}, nonce...)) }
func (plainHash) Element(name string, r Stored) Sum {
	return sha256.Sum256(fmt.Appendf([]byte{1}, "%s %d %x", name, r.Revision, r.SHA256))
}

// Sums are carried over all their bytes.
func TestSums(t *testing.T) {
	one, all := Sum{31: 1}, Sum{}
	for i := range all {
		all[i] = 0xff
	}
	require.Equal(t, Sum{}, all.Plus(one))
	require.Equal(t, all, Sum{}.Minus(one))
	require.Equal(t, Sum{23: 1}, Sum{24: 0xff, 25: 0xff, 26: 0xff, 27: 0xff, 28: 0xff, 29: 0xff, 30: 0xff, 31: 0xff}.Plus(one))
	x, y := plainHash{}.Nonce([]byte("x")), plainHash{}.Nonce([]byte("y"))
	require.Equal(t, x, x.Plus(y).Minus(y))
	require.Equal(t, x.Plus(y), y.Plus(x))
}

// madeStore is a store that is no more than what it says.
type madeStore struct {
	t       *testing.T
	l       *Log
	signer  *signer
	sealing *sealing
	dir     string
	commit  uint64
	records map[string]Stored
}

func newMadeStore(t *testing.T) *madeStore {
	dir := filepath.Join(t.TempDir(), "audit")
	s := &madeStore{t: t, signer: newSigner(t), dir: dir, l: mustOpen(t, dir, Options{}), records: map[string]Stored{}}
	t.Cleanup(func() { require.NoError(t, s.l.Close()) })
	s.signer.checkpoint = func() (*Checkpoint, error) {
		now := s.now()
		c := &Checkpoint{Store: now.Store, Epoch: now.Epoch, Commit: now.Commit, Records: uint64(len(now.Records)), Nonce: []byte{byte(s.commit)}}
		c.Hash = now.Hash.Nonce(c.Nonce)
		for name, r := range now.Records {
			c.Hash = c.Hash.Plus(now.Hash.Element(name, r))
		}
		return c, nil
	}
	s.sealing = s.l.newSealing(s.signer)
	return s
}

func (s *madeStore) now() StoredRecords {
	moment := StoreMoment{Store: "0a", Epoch: 3, Commit: s.commit, Hash: plainHash{}}
	return StoredRecords{StoreMoment: moment, Records: s.records}
}

func (s *madeStore) checkpoint() {
	s.sealing.noCheckpoint = time.Time{}
	s.sealing.checkpoint(s.t.Context(), time.Minute)
}

// write writes a record, or deletes it, and returns what the log is to be told.
func (s *madeStore) write(name string, deleted bool) Wrote {
	s.commit++
	w := wrote(name, uint64(time.Now().UnixMicro()))
	w.Commit, w.Epoch, w.Deleted = s.commit, 3, deleted
	if was, there := s.records[name]; there {
		w.Was = &was
		w.Revision = max(w.Revision, was.Revision+1)
	}
	s.records[name] = stored(w)
	if deleted {
		delete(s.records, name)
	}
	return w
}

func (s *madeStore) told(wrote ...Wrote) {
	require.NoError(s.t, s.l.Record(s.t.Context(), writing(wrote...)))
}

func (s *madeStore) compare() *Comparison {
	found, err := CompareStore(s.dir, s.signer.keys(s.t).Check, func() (StoredRecords, error) { return s.now(), nil })
	require.NoError(s.t, err)
	return found
}

// What the log tells since a checkpoint explains the store, and so it does between two of them: also of records that were there before
// there was a log.
func TestCheckpointsAndTheLogExplainTheStore(t *testing.T) {
	s := newMadeStore(t)
	s.write("key/old", false) // of before
	s.write("key/gone", false)
	s.checkpoint()
	made := s.write("key/new", false)
	s.told(made, s.write("key/new", false)) // twice by one call, such as a key that is made
	s.told(s.write("key/old", false), s.write("key/gone", true))
	s.checkpoint()
	s.told(s.write("key/new", true))
	found := s.compare()
	require.Empty(t, found.Problems)
	require.Len(t, found.Notes, 1)
	require.Regexp(t, "^the store was compared with 2 of its checkpoints, the first of 20", found.Notes[0])
}

// Of a record that the log has never named a change shows that no record tells of: now, or between two checkpoints.
func TestChangesThatTheLogDoesNotTell(t *testing.T) {
	for what, change := range map[string]func(*madeStore){
		`of its 2 records some are others, or older`: func(s *madeStore) { s.records["key/old"] = Stored{Revision: 1} },
		`it has 1 records, and should have 2`:        func(s *madeStore) { delete(s.records, "key/old") },
		`it has 3 records, and should have 2`:        func(s *madeStore) { s.records["key/back"] = Stored{Revision: 1} },
	} {
		s := newMadeStore(t)
		s.write("key/old", false)
		s.checkpoint()
		s.told(s.write("key/new", false))
		change(s)
		found := s.compare()
		require.Len(t, found.Problems, 1, found.Problems)
		require.Regexp(t, `^the store is not what its checkpoint of .*Z and the log since then tell: `+what+"$", found.Problems[0])
		s.checkpoint()
		found = s.compare()
		require.Len(t, found.Problems, 1)
		require.Regexp(t, `^between the checkpoints of .*Z and .*Z the store was changed by what no record of the log tells of$`,
			found.Problems[0])
	}
}

// A record that is newer than what the log tells of it, or that it does not tell of, is named.
func TestUnknownRecordsAreNamed(t *testing.T) {
	s := newMadeStore(t)
	s.told(s.write("key/a", false))
	s.checkpoint()
	s.signer.checkpoint = nil
	later := uint64(time.Now().Add(time.Minute).UnixMicro())
	s.records["key/a"] = Stored{Revision: later}
	s.records["key/b"] = Stored{Revision: later}
	found := s.compare()
	require.Len(t, found.Problems, 3)
	require.Regexp(t, "^the record key/a of the store was written at .*Z, and no record of the log tells of it$", found.Problems[1])
	require.Regexp(t, "^the record key/b of the store was written at ", found.Problems[2])
	for i := range 200 {
		s.records[fmt.Sprint("key/many/", i)] = Stored{Revision: later}
	}
	require.Len(t, s.compare().Problems, 102)
}

// What a call was about to write that has no end, whose answer was lost, or that has written too much to be told, keeps a time from
// being compared. That is no fault.
func TestTimesThatAreNotCompared(t *testing.T) {
	for name, doubt := range map[string]func(*madeStore){
		"begun": func(s *madeStore) {
			s.write("key/lost", false)
			require.NoError(t, s.l.Intend(t.Context(), Event{Kind: Intent, Operation: "CreateKey", RequestID: NewID()}))
		},
		"lost": func(s *madeStore) {
			w := s.write("key/lost", false)
			w.Unsure, w.Commit = true, 0
			s.told(w)
		},
		"many": func(s *madeStore) {
			var all []Wrote
			for i := range 70 {
				all = append(all, s.write(fmt.Sprint("key/", i), false))
			}
			s.told(all...)
		},
	} {
		s := newMadeStore(t)
		s.checkpoint()
		doubt(s)
		found := s.compare()
		require.Empty(t, found.Problems, name)
		require.Len(t, found.Notes, 2, name)
		require.Contains(t, found.Notes[0], "by what the log does not tell of")
		s.checkpoint()
		s.told(s.write("key/after", false))
		require.Empty(t, s.compare().Problems, name)
	}
}

// A checkpoint that is not signed, is edited, or is of another store or epoch, counts for nothing.
func TestCheckpointsThatDoNotCount(t *testing.T) {
	s := newMadeStore(t)
	s.checkpoint()
	other := newSigner(t)
	s.write("key/a", false)
	require.NotEmpty(t, s.compare().Problems)
	found, err := CompareStore(s.dir, other.keys(t).Check, func() (StoredRecords, error) { return s.now(), nil })
	require.NoError(t, err)
	require.Equal(t, &Comparison{Notes: []string{"1 checkpoints of the store do not count: their signatures are not by the key"}}, found)
	found, err = CompareStore(s.dir, nil, func() (StoredRecords, error) { return s.now(), nil })
	require.NoError(t, err)
	require.Equal(t, &Comparison{Notes: []string{"1 checkpoints of the store do not count: there is no key that they were signed by"}}, found)
	for _, change := range []func(*StoredRecords){func(r *StoredRecords) { r.Epoch++ }, func(r *StoredRecords) { r.Store = "0b" }} {
		found, err := CompareStore(s.dir, s.signer.keys(t).Check, func() (StoredRecords, error) {
			now := s.now()
			change(&now)
			return now, nil
		})
		require.NoError(t, err)
		require.Equal(t, &Comparison{}, found)
	}
}

// The text of a checkpoint is read in the one form that it is written in.
func TestTextOfACheckpoint(t *testing.T) {
	c := &Checkpoint{Time: time.Unix(1e9, 0).UTC(), Store: "0a", Epoch: 2, Commit: 7, Records: 5, Nonce: []byte{1, 2}, Hash: Sum{3}}
	text := "pkcs11kms audit checkpoint 1\n2001-09-09T01:46:40Z\n0a 2 7\n5 0102 03" + fmt.Sprintf("%062d", 0) + "\n"
	require.Equal(t, text, c.text())
	read, err := parseCheckpoint(text)
	require.NoError(t, err)
	require.Equal(t, c, read)
	for _, wrong := range []string{"", text + "x", " " + text, text[:len(text)-1], text[:len(text)-3] + "\n",
		"pkcs11kms audit seal 1" + text[28:]} {
		_, err := parseCheckpoint(wrong)
		require.Error(t, err, wrong)
	}
}

// What has expired keeps the checkpoints of its time from being compared.
func TestCheckpointsOfATimeThatHasExpired(t *testing.T) {
	s := newMadeStore(t)
	s.checkpoint()
	one, two := &Checkpoint{Time: time.Unix(100, 0), Store: "0a", Epoch: 3}, &Checkpoint{Time: time.Unix(200, 0), Store: "0a", Epoch: 3}
	log := history{checkpoints: []*Checkpoint{one, two}}
	require.Len(t, newSteps(log, s.now()), 2)
	log.since = time.Unix(150, 0)
	require.Len(t, newSteps(log, s.now()), 1)
}

// After a rotation and at the end there is a checkpoint, and a seal after it. One that cannot be made keeps nothing from being sealed.
func TestCheckpointsAreMade(t *testing.T) {
	s := newMadeStore(t)
	stop := s.l.SealBy(s.signer)
	s.told(s.write("key/a", false))
	s.l.Rotate()
	names := func() (names []string) {
		require.NoError(t, Scan(s.dir, func(line []byte) error {
			var summary Summary
			err := json.Unmarshal(line, &summary)
			names = append(names, summary.EventName)
			return err
		}))
		return names
	}
	require.Eventually(t, func() bool { n := names(); return len(n) == 3 }, time.Minute, time.Millisecond)
	require.Equal(t, []string{"TagResource", "CheckpointStore", "SealAuditLog"}, names())
	s.told(s.write("key/b", false))
	stop(t.Context())
	require.Equal(t, []string{"TagResource", "CheckpointStore", "SealAuditLog", "TagResource", "CheckpointStore", "SealAuditLog"}, names())
	require.Empty(t, s.compare().Problems)

	s.signer.checkpoint = func() (*Checkpoint, error) { return nil, fmt.Errorf("the store is away") }
	stop = s.l.SealBy(s.signer)
	s.told(s.write("key/b", false))
	stop(t.Context())
	require.Equal(t, []string{"TagResource", "SealAuditLog"}, names()[6:])
}
