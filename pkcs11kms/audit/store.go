package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Stored is a record of the store as it is.
type Stored struct {
	Revision uint64
	SHA256   [32]byte
}

// StoredRecords are those of the store at one moment, by the names of Wrote.
type StoredRecords struct {
	StoreMoment
	Records map[string]Stored
	Edited  []string // those that are there, and whose seals are not right
}

// Comparison is what CompareStore has found.
type Comparison struct {
	Problems []string
	Edited   []string // the names of records that are not as they were sealed, of which nothing else is told
	Notes    []string // what is no fault, and to be known
	Compared int      // records that the log names
}

// CompareStore tells which records of the store are not what the log says that was written last: none, an older one, another one, or one
// that was deleted; and, by the checkpoints whose signatures check finds valid, whether there was a change that the log does not tell of.
// read is called when the log was read: what others have written since is newer. What they have deleted since stands in the log when it
// is read once more.
func CompareStore(dir string, check func([]byte, Signature) error, read func() (StoredRecords, error)) (*Comparison, error) {
	before, err := readWrites(dir, check)
	if err != nil {
		return nil, err
	}
	now, err := read()
	if err != nil {
		return nil, err
	}
	since := before
	steps := newSteps(before, now)
	out := &Comparison{Compared: len(before.last), Edited: now.Edited}
	for _, name := range now.Edited {
		delete(before.last, name)
	}
	if anyGone(before.last, now.Records) || len(steps) > 0 {
		if since, err = readWrites(dir, check, steps...); err != nil {
			return nil, err
		}
	}
	if before.unsigned > 0 {
		why := "their signatures are not by the key"
		if check == nil {
			why = "there is no key that they were signed by"
		}
		out.Notes = append(out.Notes, fmt.Sprintf("%d checkpoints of the store do not count: %s", before.unsigned, why))
	}
	for _, name := range slices.Sorted(maps.Keys(before.last)) {
		if what := differs(before.last[name], since.last[name], now.Records); what != "" {
			out.Problems = append(out.Problems, fmt.Sprintf("the record %s of the store %s", name, what))
		}
	}
	out.compareSteps(steps, since, now)
	return out, nil
}

// history is what a log says of the store.
type history struct {
	last        map[string]Wrote // to each record, since the store was made anew
	anew        uint64           // the revision of that time
	checkpoints []*Checkpoint
	unsigned    int                   // that are signed by no key that is known
	open        map[string]OpenIntent // by requestID
	since       time.Time             // before that there may be files which have gone
}

// anewEvents are those by which an operator has made the store what is to be there, whatever was written before: by a backup, or by sealing
// it as it was then.
var anewEvents = []string{"RestoreStore", "SealRecords"}

// mayBeAnew tells whether a record of the log may be of one of anewEvents.
func mayBeAnew(line []byte) bool {
	return slices.ContainsFunc(anewEvents, func(name string) bool { return bytes.Contains(line, []byte(`"eventName":"`+name+`"`)) })
}

// readWrites reads what was written last to each record, and adds up in steps what was written in each of them.
func readWrites(dir string, check func([]byte, Signature) error, steps ...*step) (history, error) {
	w := history{last: map[string]Wrote{}, open: map[string]OpenIntent{}}
	var err error
	if w.since, err = wholeSince(dir); err != nil {
		return w, err
	}
	err = Scan(dir, func(line []byte) error {
		switch {
		case mayBeAnew(line):
			w.anew = max(w.anew, anewAt(line))
		case bytes.Contains(line, []byte(`"`+wroteMember+`"`)):
			w.add(line, steps)
		case mayBeCheckpoint(line):
			if c := checkpointOf(line, check); c != nil {
				w.checkpoints = append(w.checkpoints, c)
			} else {
				w.unsigned++
			}
		}
		if len(steps) == 0 {
			return nil
		}
		return noteIntent(w.open, line)
	})
	maps.DeleteFunc(w.last, func(_ string, one Wrote) bool { return one.Revision < w.anew })
	w.checkpoints = slices.DeleteFunc(w.checkpoints, func(c *Checkpoint) bool { return uint64(c.Time.UnixMicro()) < w.anew })
	return w, err
}

// wholeSince is the time from which on no file of a directory is missing that has expired or was taken elsewhere: of each chain the oldest
// may be. Zero: none has.
func wholeSince(dir string) (since time.Time, err error) {
	found, err := list(dir)
	if err != nil {
		return since, err
	}
	for _, files := range found.files {
		if len(files) == 0 || files[0].first == 1 {
			continue
		}
		if at, ok := firstTime(files[0]); ok && at.After(since) {
			since = at
		}
	}
	return since, nil
}

func (w *history) add(line []byte, steps []*step) {
	wrote, more, at := wroteOf(line)
	for _, one := range wrote {
		if !one.Unsure && one.Revision > w.last[one.Record].Revision {
			w.last[one.Record] = one
		}
		for _, s := range steps {
			s.add(one, at)
		}
	}
	if more > 0 {
		for _, s := range steps {
			s.doubt(at)
		}
	}
}

// anewAt is the revision of the time at which one of anewEvents has ended; 0 if it has failed, or the line is of something else.
func anewAt(line []byte) uint64 {
	var event struct {
		Name  string    `json:"eventName"`
		Type  string    `json:"eventType"`
		Error string    `json:"errorCode"`
		Time  time.Time `json:"eventTime"`
		Data  struct {
			Ended uint64 `json:"endedAt"`
		} `json:"additionalEventData"`
	}
	if json.Unmarshal(line, &event) != nil || !slices.Contains(anewEvents, event.Name) || event.Type == kinds[Intent] || event.Error != "" {
		return 0
	}
	return max(event.Data.Ended, uint64(event.Time.UnixMicro()))
}

// EndedAt is what Event.Additional tells of an operator's change of the store: when it was done, in microseconds since 1970, as revisions
// of records are. The time of an event has whole seconds.
func EndedAt(t time.Time) map[string]any { return map[string]any{"endedAt": t.UnixMicro()} }

func anyGone(last map[string]Wrote, stored map[string]Stored) bool {
	for name, w := range last {
		if _, there := stored[name]; !there && !w.Deleted {
			return true
		}
	}
	return false
}

func differs(w, since Wrote, stored map[string]Stored) string {
	now, there := stored[w.Record]
	switch {
	case !there && since.Deleted:
		return ""
	case there && now.Revision > w.Revision:
		return "" // written since, or by a call whose outcome is not in the log
	case w.Deleted:
		return "is there, and was deleted"
	case !there:
		return "is not there, and was written"
	case now.Revision < w.Revision:
		return "is older than what was written last"
	case now.SHA256 != w.SHA256:
		return "is another one than what was written last"
	}
	return ""
}

// storedJSON is a record of the store as the log has it.
type storedJSON struct {
	Revision uint64 `json:"revision"`
	SHA256   string `json:"sha256"`
}

func (j storedJSON) stored() (s Stored, ok bool) {
	s.Revision = j.Revision
	n, err := hex.Decode(s.SHA256[:], []byte(j.SHA256[:min(len(j.SHA256), 2*len(s.SHA256))]))
	return s, err == nil && n == len(s.SHA256) && len(j.SHA256) == 2*n
}

// wroteOf reads what a record of the log tells of the store, how much more there was, and when. What is not of this form is passed over:
// VerifyDir tells of edits.
func wroteOf(line []byte) (wrote []Wrote, more int, at time.Time) {
	var event struct {
		Time time.Time `json:"eventTime"`
		Data struct {
			Wrote []struct {
				storedJSON
				Record  string      `json:"record"`
				Deleted bool        `json:"deleted"`
				Commit  uint64      `json:"commit"`
				Epoch   uint32      `json:"epoch"`
				Was     *storedJSON `json:"was"`
				Unsure  bool        `json:"unsure"`
			} `json:"storeRecords"`
			More int `json:"storeRecordsLeftOut"`
		} `json:"additionalEventData"`
	}
	if json.Unmarshal(line, &event) != nil {
		return nil, 0, at
	}
	for _, w := range event.Data.Wrote {
		now, ok := w.stored()
		one := Wrote{Record: w.Record, Revision: w.Revision, SHA256: now.SHA256, Deleted: w.Deleted, Commit: w.Commit, Epoch: w.Epoch,
			Unsure: w.Unsure}
		if w.Was != nil {
			was, known := w.Was.stored()
			one.Was, ok = &was, ok && known
		}
		if ok || w.Deleted {
			wrote = append(wrote, one)
		}
	}
	return wrote, event.Data.More, event.Time
}
