package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Use is how often somebody has done something with a key, or with what else a call was about.
type Use struct {
	Principal string    // ARN; empty for nobody
	Resource  string    // ARN; empty where a call was about nothing that there is
	EventName string    // such as GenerateMac
	Calls     uint64    // with those that failed
	Errors    uint64    // of them
	First     time.Time // call
	Last      time.Time
}

// Uses counts the calls of a directory's records, by who called what on which key, from a time on and before another; zero times bound
// nothing. The most frequent come first. Intents, events of the service and ends of streams are no calls. It reads all records of that
// time.
func Uses(ctx context.Context, dir string, since, until time.Time) (uses []Use, err error) {
	counts := map[useKey]*Use{}
	err = trying(func() error {
		clear(counts)
		parts, err := partsOf(ctx, dir, Query{Since: since, Until: until})
		if err != nil {
			return err
		}
		r := partReader{ctx: ctx}
		defer r.close()
		for _, p := range parts {
			if err := r.read(p, func(line []byte) error { return count(counts, line, since, until) }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, u := range counts {
		uses = append(uses, *u)
	}
	slices.SortFunc(uses, func(x, y Use) int {
		return cmp.Or(-cmp.Compare(x.Calls, y.Calls), strings.Compare(x.Principal, y.Principal), strings.Compare(x.Resource, y.Resource),
			strings.Compare(x.EventName, y.EventName))
	})
	return uses, nil
}

type useKey struct{ principal, resource, event string }

// count counts a call, if the line is one of that time.
func count(counts map[useKey]*Use, line []byte, since, until time.Time) error {
	if _, err := linkOf(line); err != nil {
		return nil
	}
	var s Summary
	if json.Unmarshal(line, &s) != nil || s.EventType != Call.String() || !within(s.EventTime, since, until) {
		return nil
	}
	k := useKey{principal: s.UserIdentity.ARN, event: s.EventName}
	if len(s.Resources) > 0 {
		k.resource = s.Resources[0].ARN
	}
	u := counts[k]
	if u == nil {
		u = &Use{Principal: k.principal, Resource: k.resource, EventName: k.event, First: s.EventTime, Last: s.EventTime}
		counts[k] = u
	}
	u.Calls++
	if s.ErrorCode != "" {
		u.Errors++
	}
	if s.EventTime.Before(u.First) {
		u.First = s.EventTime
	}
	if s.EventTime.After(u.Last) {
		u.Last = s.EventTime
	}
	return nil
}
