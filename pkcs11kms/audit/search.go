package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// Query says which records Search finds. What is empty excludes nothing.
type Query struct {
	EventName string
	KeyID     string // key id, key ARN, alias name or alias ARN: of the request, or of a resource
	Principal string // ARN, name of a user, or access key id
	ErrorCode string // as the record has it, or as the API has it; "any" for every error
	Since     time.Time
	Until     time.Time // before it
	Max       int       // the newest so many; 0: all
}

// found is a record that a search has found.
type found struct {
	line []byte
	at   time.Time
}

func byTime(x, y found) int { return x.at.Compare(y.at) }

// seen is what a search must know of a record.
type seen struct {
	EventTime    time.Time
	EventName    string
	ErrorCode    string
	UserIdentity struct{ ARN, UserName, AccessKeyID string }
	Resources    []struct{ ARN string }

	RequestParameters struct{ KeyID, TargetKeyID, AliasName, DestinationKeyID string }
}

// Search returns the lines of the records of a directory that a query asks for, all chains together, ordered by their time, the oldest
// first. It reads everything.
func Search(dir string, q Query) (lines [][]byte, err error) {
	var all []found
	trim := func() {
		slices.SortStableFunc(all, byTime)
		if q.Max > 0 && len(all) > q.Max {
			all = slices.Clone(all[len(all)-q.Max:])
		}
	}
	err = Scan(dir, func(line []byte) error {
		if at, ok := q.fits(line); ok {
			all = append(all, found{bytes.Clone(line), at})
		}
		if q.Max > 0 && len(all) >= 2*q.Max+1000 {
			trim()
		}
		return nil
	})
	trim()
	for _, f := range all {
		lines = append(lines, f.line)
	}
	return lines, err
}

// fits tells whether a record is asked for, and its time. What cannot be in it by its bytes is not parsed.
func (q Query) fits(line []byte) (at time.Time, ok bool) {
	for _, text := range []string{q.EventName, bare(q.KeyID), q.Principal} {
		if text != "" && !bytes.Contains(line, []byte(text)) {
			return at, false
		}
	}
	if q.ErrorCode != "" && !bytes.Contains(line, []byte(`"errorCode"`)) {
		return at, false
	}
	var s seen
	if json.Unmarshal(line, &s) != nil {
		return at, false
	}
	switch who := s.UserIdentity; {
	case q.EventName != "" && s.EventName != q.EventName,
		q.Principal != "" && !slices.Contains([]string{who.ARN, who.UserName, who.AccessKeyID}, q.Principal),
		!q.errorFits(s.ErrorCode), !within(s.EventTime, q.Since, q.Until):
		return at, false
	}
	return s.EventTime, q.KeyID == "" || s.names(bare(q.KeyID))
}

// within tells whether a time is not before since, and before until; zero times bound nothing.
func within(at, since, until time.Time) bool {
	return (since.IsZero() || !at.Before(since)) && (until.IsZero() || at.Before(until))
}

func (q Query) errorFits(code string) bool {
	switch q.ErrorCode {
	case "":
		return true
	case "any":
		return code != ""
	}
	return code != "" && (code == q.ErrorCode || code == strings.TrimSuffix(q.ErrorCode, "Exception"))
}

// bare is what an ARN of a key or alias ends with.
func bare(id string) string {
	if rest, ok := strings.CutPrefix(id, "arn:"); ok {
		rest = rest[strings.LastIndexByte(rest, ':')+1:]
		return strings.TrimPrefix(rest, "key/")
	}
	return id
}

// names tells whether a record is about a key or alias.
func (s *seen) names(id string) bool {
	p := s.RequestParameters
	for _, given := range []string{p.KeyID, p.TargetKeyID, p.DestinationKeyID, p.AliasName} {
		if given != "" && bare(given) == id {
			return true
		}
	}
	return slices.ContainsFunc(s.Resources, func(r struct{ ARN string }) bool { return bare(r.ARN) == id })
}

// Tail calls use with the newest so many records of a directory and, with follow, with each that is written from then on, until ctx ends,
// which is no error. Of each chain it looks at the newest file, and those that come.
func Tail(ctx context.Context, dir string, newest int, follow bool, use func(line []byte) error) error {
	t := &tail{dir: dir, at: map[int]position{}}
	var first []found
	err := t.poll(func(line []byte) error {
		at, ok := Query{}.fits(line)
		if ok {
			first = append(first, found{bytes.Clone(line), at})
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(first, byTime)
	for _, f := range first[max(0, len(first)-newest):] {
		if err := use(f.line); err != nil {
			return err
		}
	}
	for tick := time.NewTicker(followInterval); follow; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
			if err := t.poll(use); err != nil {
				return err
			}
		}
	}
	return nil
}

// followInterval is how often Tail looks.
const followInterval = 200 * time.Millisecond

// tail is how far a directory was read.
type tail struct {
	dir string
	at  map[int]position // by chain
}

// position is a place in a file: the number of its first record, and bytes of what is in it.
type position struct {
	first uint64
	bytes int64
}

// poll calls use with what was written since the last time.
func (t *tail) poll(use func(line []byte) error) error {
	now, err := list(t.dir)
	if err != nil {
		return err
	}
	for _, number := range sortedKeys(now.files) {
		files := now.files[number]
		at, known := t.at[number]
		if !known {
			at.first = files[len(files)-1].first
		}
		for _, f := range files {
			switch {
			case f.first < at.first:
				continue
			case f.first > at.first:
				at = position{first: f.first}
			}
			if at.bytes, err = readFrom(f, at.bytes, use); err != nil {
				return err
			}
		}
		t.at[number] = at
	}
	return nil
}

// readFrom calls use with the lines of a file beyond a place, and returns the place after the last whole one.
func readFrom(f file, from int64, use func(line []byte) error) (int64, error) {
	r, err := openFile(f)
	if errors.Is(err, fs.ErrNotExist) {
		return from, nil
	}
	if err != nil {
		return from, err
	}
	defer r.Close()
	if seeker, ok := r.(*os.File); ok {
		_, err = seeker.Seek(from, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, r, from)
	}
	if err != nil {
		return from, err
	}
	lines := newLineReader(r)
	for line, whole := lines.next(); whole; line, whole = lines.next() {
		from += int64(len(line)) + 1
		if _, err := linkOf(line); err != nil {
			continue
		}
		if err := use(line); err != nil {
			return from, err
		}
	}
	return from, lines.err
}
