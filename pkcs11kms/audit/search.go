package audit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
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
	// Progress is told how much there is to read of files without an index, in bytes, and how much of it was read; nil: nobody is.
	Progress func(read, of int64)
}

// found is a record that a search has found.
type found struct {
	line  []byte
	at    time.Time
	chain int // its number
	seq   uint64
}

// newestFirst is the order of records: those of one second by their chains and numbers.
func newestFirst(x, y found) int {
	return cmp.Or(y.at.Compare(x.at), cmp.Compare(y.chain, x.chain), cmp.Compare(y.seq, x.seq))
}

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
// first. What an index tells to be without such records is not read; an index that is missing is made.
func Search(ctx context.Context, dir string, q Query) (lines [][]byte, err error) {
	all, err := find(ctx, dir, q)
	for _, f := range slices.Backward(all) {
		lines = append(lines, f.line)
	}
	return lines, err
}

// find returns what a query asks for, the newest first.
func find(ctx context.Context, dir string, q Query) (all []found, err error) {
	err = trying(func() (err error) {
		all, err = findIn(ctx, dir, q)
		return err
	})
	return all, err
}

func findIn(ctx context.Context, dir string, q Query) (all []found, err error) {
	parts, err := partsOf(ctx, dir, q)
	if err != nil {
		return nil, err
	}
	keep := func() {
		slices.SortFunc(all, newestFirst)
		if q.Max > 0 && len(all) > q.Max {
			all = slices.Clone(all[:q.Max])
		}
	}
	needles := q.needles()
	r := partReader{ctx: ctx}
	defer r.close()
	for _, p := range parts {
		if keep(); q.Max > 0 && len(all) == q.Max && p.newest < all[q.Max-1].at.Unix() {
			break // and so is all that comes after it
		}
		err := r.read(p, func(line []byte) error {
			if at, seq, ok := q.fits(line, needles); ok {
				all = append(all, found{bytes.Clone(line), at, p.file.number, seq})
			}
			if q.Max > 0 && len(all) >= 2*q.Max+1000 {
				keep()
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	keep()
	return all, nil
}

// needles are texts that a record which is asked for has in it, as it is written.
func (q Query) needles() (needles [][]byte) {
	for _, text := range []string{q.EventName, bare(q.KeyID), q.Principal} {
		if text != "" {
			quoted := appendText(nil, text)
			needles = append(needles, quoted[1:len(quoted)-1])
		}
	}
	if q.ErrorCode != "" {
		needles = append(needles, []byte(`"errorCode"`))
	}
	return needles
}

// fits tells whether a line is a record that is asked for, and its time and number. What cannot be by its bytes is not parsed.
func (q Query) fits(line []byte, needles [][]byte) (at time.Time, seq uint64, ok bool) {
	for _, needle := range needles {
		if !bytes.Contains(line, needle) {
			return at, 0, false
		}
	}
	place, err := linkOf(line)
	if err != nil {
		return at, 0, false
	}
	var s seen
	if json.Unmarshal(line, &s) != nil {
		return at, 0, false
	}
	switch who := s.UserIdentity; {
	case q.EventName != "" && s.EventName != q.EventName,
		q.Principal != "" && !slices.Contains([]string{who.ARN, who.UserName, who.AccessKeyID}, q.Principal),
		!q.errorFits(s.ErrorCode), !within(s.EventTime, q.Since, q.Until):
		return at, 0, false
	}
	return s.EventTime, place.seq, q.KeyID == "" || s.names(bare(q.KeyID))
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
