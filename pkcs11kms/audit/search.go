package audit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Query says which records Search and Find find. What is empty excludes nothing.
type Query struct {
	EventName string
	KeyID     string // key id, key ARN, alias name or alias ARN: of the request, or of a resource
	Principal string // ARN, name of a user, or access key id
	ErrorCode string // as the record has it, or as the API has it; "any" for every error
	Since     time.Time
	Until     time.Time // before it

	EventID, EventSource, Username, AccessKeyID string
	ResourceType, ResourceName                  string // of one resource each; the name as an ARN, or what an ARN ends with
	ReadOnly                                    string // true or false
	Account, Region                             string // whose call it is, and where
	CallsOnly                                   bool   // and events of the service: no intents, and no ends of streams

	Max   int    // the newest so many; 0: all
	After *Place // only what comes after it, from the newest to the oldest; nil: from the newest on
	// Progress is told how much there is to read of files without an index, in bytes, and how much of it was read; nil: nobody is.
	Progress func(read, of int64)
}

// Place is that of a record among those of a directory.
type Place struct {
	Time  time.Time // of the record
	Chain int       // the number of its chain
	Seq   uint64    // its own in the chain
}

// newestFirst compares places: the newest is first, and those of one second are ordered by their chains and numbers.
func newestFirst(x, y Place) int {
	return cmp.Or(y.Time.Compare(x.Time), cmp.Compare(y.Chain, x.Chain), cmp.Compare(y.Seq, x.Seq))
}

// Found is a record that a search has found.
type Found struct {
	Line  []byte
	Place Place
	Summary
}

// Summary is what a search must know of a record, by CloudTrail's names.
type Summary struct {
	EventTime                                             time.Time
	EventID, EventName, EventSource, EventType, ErrorCode string
	AWSRegion, RecipientAccountID                         string
	ReadOnly                                              bool
	UserIdentity                                          struct{ ARN, UserName, AccessKeyID string }
	Resources                                             []struct{ ARN, Type string }

	RequestParameters struct{ KeyID, TargetKeyID, AliasName, DestinationKeyID string }
}

// Username is the name of who called: of a user or role, or root; of nobody and of the service itself it is empty.
func (s *Summary) Username() string {
	return cmp.Or(s.UserIdentity.UserName, lastOf(s.UserIdentity.ARN))
}

// Searcher is what a Writer can do whose records can be searched, as a Log.
type Searcher interface {
	// Find returns the records that a query asks for, the newest first.
	Find(ctx context.Context, q Query) ([]Found, error)
}

// Find implements Searcher, with the records of all processes.
func (l *Log) Find(ctx context.Context, q Query) ([]Found, error) { return Find(ctx, l.dir, q) }

// Search returns the lines of the records of a directory that a query asks for, all chains together, ordered by their time, the oldest
// first. What an index tells to be without such records is not read; an index that is missing is made.
func Search(ctx context.Context, dir string, q Query) (lines [][]byte, err error) {
	all, err := Find(ctx, dir, q)
	for _, f := range slices.Backward(all) {
		lines = append(lines, f.Line)
	}
	return lines, err
}

// Find is Search with the newest first, and what is known of each record.
func Find(ctx context.Context, dir string, q Query) (all []Found, err error) {
	err = trying(func() (err error) {
		all, err = findIn(ctx, dir, q)
		return err
	})
	return all, err
}

func findIn(ctx context.Context, dir string, q Query) ([]Found, error) {
	parts, err := partsOf(ctx, dir, q)
	if err != nil {
		return nil, err
	}
	p := page{q: q, needles: q.needles(), oldest: math.MinInt64}
	r := partReader{ctx: ctx}
	defer r.close()
	for _, part := range parts {
		if p.trim(); part.newest < p.oldest {
			break // and so is all that comes after it
		}
		if err := r.read(part, func(line []byte) error { p.take(line, part.file.number); return nil }); err != nil {
			return nil, err
		}
	}
	p.trim()
	return p.all, nil
}

// page is what a search has found so far.
type page struct {
	q       Query
	needles [][]byte
	all     []Found
	oldest  int64 // what is older is not needed
}

// take takes a line, if it is asked for.
func (p *page) take(line []byte, chain int) {
	if p.oldest > math.MinInt64 {
		if at, ok := timeOf(line); ok && at.Unix() < p.oldest {
			return
		}
	}
	found, ok := p.q.fits(line, chain, p.needles)
	if !ok {
		return
	}
	found.Line = bytes.Clone(line)
	if p.all = append(p.all, found); p.q.Max > 0 && len(p.all) >= p.q.Max+max(p.q.Max/2, 16) {
		p.trim()
	}
}

// trim leaves what is on the page.
func (p *page) trim() {
	slices.SortFunc(p.all, func(x, y Found) int { return newestFirst(x.Place, y.Place) })
	if p.q.Max > 0 && len(p.all) >= p.q.Max {
		clear(p.all[p.q.Max:])
		p.all = p.all[:p.q.Max]
		p.oldest = p.all[p.q.Max-1].EventTime.Unix()
	}
}

// needles are texts that a record which is asked for has in it, as it is written.
func (q Query) needles() (needles [][]byte) {
	for _, text := range []string{q.EventName, bare(q.KeyID), q.Principal, q.EventID, q.EventSource, q.Username, q.AccessKeyID, q.ResourceType,
		q.ResourceName, q.Account, q.Region} {
		if text != "" {
			quoted := appendText(nil, text)
			needles = append(needles, quoted[1:len(quoted)-1])
		}
	}
	if q.ErrorCode != "" {
		needles = append(needles, []byte(`"errorCode"`))
	}
	if q.ReadOnly != "" {
		needles = append(needles, []byte(`"readOnly":`+q.ReadOnly))
	}
	return needles
}

// fits tells whether a line is a record that is asked for, and all of it but the line. What cannot be by its bytes is not parsed.
func (q Query) fits(line []byte, chain int, needles [][]byte) (f Found, ok bool) {
	for _, needle := range needles {
		if !bytes.Contains(line, needle) {
			return f, false
		}
	}
	link, err := linkOf(line)
	if err != nil || json.Unmarshal(line, &f.Summary) != nil {
		return f, false
	}
	f.Place = Place{f.EventTime, chain, link.seq}
	return f, q.matches(&f.Summary) && (q.After == nil || newestFirst(*q.After, f.Place) < 0)
}

// matches tells whether a record has all that is asked for.
func (q Query) matches(s *Summary) bool {
	who := s.UserIdentity
	for _, member := range []struct{ want, is string }{
		{q.EventName, s.EventName}, {q.EventID, s.EventID}, {q.EventSource, s.EventSource}, {q.Account, s.RecipientAccountID},
		{q.Region, s.AWSRegion}, {q.Username, s.Username()}, {q.AccessKeyID, who.AccessKeyID}, {q.ReadOnly, strconv.FormatBool(s.ReadOnly)},
	} {
		if member.want != "" && member.want != member.is {
			return false
		}
	}
	switch {
	case q.Principal != "" && !slices.Contains([]string{who.ARN, who.UserName, who.AccessKeyID}, q.Principal),
		q.CallsOnly && s.EventType != Call.String() && s.EventType != ServiceEvent.String(),
		!q.errorFits(s.ErrorCode), !within(s.EventTime, q.Since, q.Until), !q.resourceFits(s):
		return false
	}
	return q.KeyID == "" || s.names(bare(q.KeyID))
}

func (q Query) resourceFits(s *Summary) bool {
	if q.ResourceType == "" && q.ResourceName == "" {
		return true
	}
	for _, r := range s.Resources {
		named := q.ResourceName == "" || slices.Contains([]string{r.ARN, bare(r.ARN), lastOf(r.ARN)}, q.ResourceName)
		if named && (q.ResourceType == "" || q.ResourceType == r.Type) {
			return true
		}
	}
	return false
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
func (s *Summary) names(id string) bool {
	p := s.RequestParameters
	for _, given := range []string{p.KeyID, p.TargetKeyID, p.DestinationKeyID, p.AliasName} {
		if given != "" && bare(given) == id {
			return true
		}
	}
	return slices.ContainsFunc(s.Resources, func(r struct{ ARN, Type string }) bool { return bare(r.ARN) == id })
}
