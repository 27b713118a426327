package audit

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// step is the time from one checkpoint of the store to the next, or to now.
type step struct {
	from, to *Checkpoint // to.Time is zero: now
	by       Multiset
	anew     uint64 // what was written before this revision does not count

	hash    Sum   // what the log says that was added to that of from
	records int64 // and to the number
	unsure  bool  // whether the log knows all that was written in it
}

// newSteps are those of the checkpoints of the store as it is sealed now, as far as the log goes back.
func newSteps(log history, now StoredRecords) (steps []*step) {
	own := slices.DeleteFunc(slices.Clone(log.checkpoints), func(c *Checkpoint) bool {
		return c.Store != now.Store || c.Epoch != now.Epoch || c.Time.Before(log.since)
	})
	if len(own) == 0 {
		return nil
	}
	slices.SortStableFunc(own, func(x, y *Checkpoint) int { return int(min(1, max(-1, int64(x.Commit)-int64(y.Commit)))) })
	last := &Checkpoint{Store: now.Store, Epoch: now.Epoch, Commit: now.Commit, Records: uint64(len(now.Records))}
	last.Hash = now.Hash.Nonce(nil)
	for name, r := range now.Records {
		last.Hash = last.Hash.Plus(now.Hash.Element(name, r))
	}
	for i, c := range append(own, last)[1:] {
		steps = append(steps, &step{from: own[i], to: c, by: now.Hash, anew: log.anew})
	}
	return steps
}

// add adds what was written, if it was in this step.
func (s *step) add(w Wrote, at time.Time) {
	if w.Unsure {
		s.doubt(at)
		return
	}
	if w.Epoch != s.to.Epoch || w.Commit <= s.from.Commit || w.Commit > s.to.Commit || w.Revision < s.anew {
		return
	}
	if w.Was != nil {
		s.hash = s.hash.Minus(s.by.Element(w.Record, *w.Was))
		s.records--
	}
	if !w.Deleted {
		s.hash = s.hash.Plus(s.by.Element(w.Record, Stored{w.Revision, w.SHA256}))
		s.records++
	}
}

// The longest that a change may take, and by how much times of one machine can be apart.
const (
	longestChange = 10 * time.Minute
	clocksApart   = 2 * time.Second
)

// doubt says that at a time something was written of which nobody knows what.
func (s *step) doubt(at time.Time) {
	begins, ends := s.from.Time.Add(-longestChange), s.to.Time.Add(clocksApart)
	s.unsure = s.unsure || at.After(begins) && (s.to.Time.IsZero() || at.Before(ends))
}

// right tells whether the log tells of all that was written in the step.
func (s *step) right() bool {
	then, now := s.from.Hash.Minus(s.by.Nonce(s.from.Nonce)), s.to.Hash.Minus(s.by.Nonce(s.to.Nonce))
	return then.Plus(s.hash) == now && s.from.Records+uint64(s.records) == s.to.Records
}

// mostUnknown bounds how many records are named that no record of the log tells of.
const mostUnknown = 100

// compareSteps tells of steps in which something was written that the log does not tell of.
func (out *Comparison) compareSteps(steps []*step, log history, now StoredRecords) {
	for _, s := range steps {
		for _, o := range log.open {
			s.doubt(o.Time)
		}
		switch {
		case s.right():
		case s.unsure:
			out.Notes = append(out.Notes, s.name()+" the store was changed by what the log does not tell of: changes were begun in that time "+
				"that have no end in the log (pkcs11kms doctor lists them), or so many at once that it does not name all")
		case s.to.Time.IsZero():
			out.Problems = append(out.Problems, s.wrong())
			out.nameUnknown(s, log, now)
		default:
			out.Problems = append(out.Problems, s.name()+" the store was changed by what no record of the log tells of")
		}
	}
	if len(steps) > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("the store was compared with %d of its checkpoints, the first of %s", len(steps),
			steps[0].from.Time.Format(time.RFC3339)))
	}
}

// wrong tells how the store differs from what it was at the checkpoint, with what the log tells since.
func (s *step) wrong() string {
	other := fmt.Sprintf("it has %d records, and should have %d", s.to.Records, s.from.Records+uint64(s.records))
	if s.from.Records+uint64(s.records) == s.to.Records {
		other = fmt.Sprintf("of its %d records some are others, or older", s.to.Records)
	}
	return fmt.Sprintf("the store is not what its checkpoint of %s and the log since then tell: %s", s.from.Time.Format(time.RFC3339), other)
}

func (s *step) name() string {
	from, to := s.from.Time.Format(time.RFC3339), s.to.Time.Format(time.RFC3339)
	if s.to.Time.IsZero() {
		return "since the checkpoint of " + from
	}
	return "between the checkpoints of " + from + " and " + to
}

// nameUnknown names the records that were written after a checkpoint, as their seals say, and of which the log does not tell that.
func (out *Comparison) nameUnknown(s *step, log history, now StoredRecords) {
	n, since := 0, uint64(s.from.Time.Add(time.Second).UnixMicro()) // it has whole seconds
	for _, name := range slices.Sorted(maps.Keys(now.Records)) {
		r := now.Records[name]
		if r.Revision <= max(log.last[name].Revision, since) {
			continue
		}
		if n++; n > mostUnknown {
			out.Problems = append(out.Problems, "and more records of the store like that")
			return
		}
		out.Problems = append(out.Problems, fmt.Sprintf("the record %s of the store was written at %s, and no record of the log tells of it",
			name, time.UnixMicro(int64(r.Revision)).UTC().Format(time.RFC3339)))
	}
}
