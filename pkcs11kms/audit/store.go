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

// CompareStore tells which records of the store are not what the log says that was written last: none, an older one, another one, or one
// that was deleted; and how many of the log's were compared. read returns those that there are, by the names of Wrote. It is called when
// the log was read: what others have written since is newer. What they have deleted since stands in the log when it is read once more.
func CompareStore(dir string, read func() (map[string]Stored, error)) (problems []string, compared int, err error) {
	last, err := lastWrites(dir)
	if err != nil {
		return nil, 0, err
	}
	stored, err := read()
	if err != nil {
		return nil, 0, err
	}
	since := last
	if anyGone(last, stored) {
		if since, err = lastWrites(dir); err != nil {
			return nil, 0, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(last)) {
		if what := differs(last[name], since[name], stored); what != "" {
			problems = append(problems, fmt.Sprintf("the record %s of the store %s", name, what))
		}
	}
	return problems, len(last), nil
}

// restoreEvent is the event of a store that was restored: what was written before is not what is to be there.
const restoreEvent = `"eventName":"RestoreStore"`

// lastWrites reads what was written last to each record, since the store was restored.
func lastWrites(dir string) (map[string]Wrote, error) {
	last, restored := map[string]Wrote{}, uint64(0)
	err := Scan(dir, func(line []byte) error {
		switch {
		case bytes.Contains(line, []byte(restoreEvent)):
			restored = max(restored, restoredAt(line))
		case bytes.Contains(line, []byte(`"`+wroteMember+`"`)):
			for _, w := range wroteOf(line) {
				if w.Revision > last[w.Record].Revision {
					last[w.Record] = w
				}
			}
		}
		return nil
	})
	maps.DeleteFunc(last, func(_ string, w Wrote) bool { return w.Revision < restored })
	return last, err
}

// restoredAt is the revision of the time at which a restore has ended; 0 if it has not, or the line is of something else.
func restoredAt(line []byte) uint64 {
	var event struct {
		Name  string    `json:"eventName"`
		Type  string    `json:"eventType"`
		Error string    `json:"errorCode"`
		Time  time.Time `json:"eventTime"`
	}
	if json.Unmarshal(line, &event) != nil || event.Name != "RestoreStore" || event.Type == kinds[Intent] || event.Error != "" {
		return 0
	}
	return uint64(event.Time.UnixMicro())
}

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

// wroteOf reads what a record of the log tells of the store. What is not of this form is passed over: VerifyDir tells of edits.
func wroteOf(line []byte) (wrote []Wrote) {
	var event struct {
		Data struct {
			Wrote []struct {
				Record   string `json:"record"`
				Revision uint64 `json:"revision"`
				SHA256   string `json:"sha256"`
				Deleted  bool   `json:"deleted"`
			} `json:"storeRecords"`
		} `json:"additionalEventData"`
	}
	if json.Unmarshal(line, &event) != nil {
		return nil
	}
	for _, w := range event.Data.Wrote {
		one := Wrote{Record: w.Record, Revision: w.Revision, Deleted: w.Deleted}
		if n, err := hex.Decode(one.SHA256[:], []byte(w.SHA256)); w.Deleted || err == nil && n == len(one.SHA256) {
			wrote = append(wrote, one)
		}
	}
	return wrote
}
