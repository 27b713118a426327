package audit

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"
)

// OpenIntent is a change that was begun, and of which no record tells the end.
type OpenIntent struct {
	Time      time.Time
	EventName string
	RequestID string
	Principal string   // ARN; empty for the service itself
	ARNs      []string // of the resources
}

// recentFiles is how many of the newest files of each chain OpenIntents reads.
const recentFiles = 2

// OpenIntents returns the changes of a directory that were begun before a time and have no end, the oldest first: of processes that were
// killed meanwhile, or could not write the end. Whether such a change was made, the store and the token tell. It looks at the two newest
// files of each chain.
func OpenIntents(dir string, before time.Time) ([]OpenIntent, error) {
	found, err := list(dir)
	if err != nil {
		return nil, err
	}
	open := map[string]OpenIntent{}
	for _, files := range found.files {
		for _, f := range files[max(0, len(files)-recentFiles):] {
			if err := scanFile(f, func(line []byte) error { return noteIntent(open, line) }); err != nil {
				return nil, err
			}
		}
	}
	var left []OpenIntent
	for _, o := range open {
		if o.Time.Before(before) {
			left = append(left, o)
		}
	}
	slices.SortFunc(left, func(x, y OpenIntent) int { return x.Time.Compare(y.Time) })
	return left, nil
}

// noteIntent adds an intent, or takes one away whose end this is.
func noteIntent(open map[string]OpenIntent, line []byte) error {
	if !bytes.Contains(line, []byte(`"readOnly":false`)) {
		return nil
	}
	var s struct {
		Summary
		RequestID string
	}
	if err := json.Unmarshal(line, &s); err != nil {
		return err
	}
	if s.EventType != Intent.String() {
		delete(open, s.RequestID)
		return nil
	}
	o := OpenIntent{Time: s.EventTime, EventName: s.EventName, RequestID: s.RequestID, Principal: s.UserIdentity.ARN}
	for _, r := range s.Resources {
		o.ARNs = append(o.ARNs, r.ARN)
	}
	open[s.RequestID] = o
	return nil
}
