package audit

import (
	"context"
	"encoding/hex"
	"slices"
	"strconv"
	"sync"
)

// Wrote is what a call has written to the store, or deleted there: by it the store can be compared with the log, see CompareStore.
type Wrote struct {
	Record   string // kind/region/account/id
	Revision uint64 // as its seal has it; of what was deleted one that is greater than every one before
	SHA256   [32]byte
	Deleted  bool
	Commit   uint64  // the number of the commit
	Epoch    uint32  // of the seals
	Was      *Stored // what was there before; nil: nothing
	// Unsure: nobody knows whether it was written, since the answer was lost.
	Unsure bool
}

// maxWrote bounds how many writes an event shows: as many as one change of the store can have. maxWroteText bounds the bytes of a name,
// maxWroteNumbers those of the rest of one.
const (
	maxWrote        = 64
	maxWroteText    = 300 // an alias has the longest name: 256 characters, a region and an account
	maxWroteNumbers = 352

	maxWroteBytes = maxWrote * (6*maxWroteText/5 + maxWroteNumbers) // of all; names are of few characters that need an escape
)

type collector struct {
	mu    sync.Mutex // guards what follows
	wrote []Wrote
	more  int // that were left out
}

type collecting struct{}

// CollectWrites returns a context for what writes to the store, by which WritesOf knows what was written. What is written under it is not
// told to the context that it is made of: one record of the log tells of a write.
func CollectWrites(ctx context.Context) context.Context {
	return context.WithValue(ctx, collecting{}, &collector{})
}

// CollectsWrites tells whether ctx is one of CollectWrites.
func CollectsWrites(ctx context.Context) bool {
	_, ok := ctx.Value(collecting{}).(*collector)
	return ok
}

// NoteWrite notes what was written to the store, if anybody collects that.
func NoteWrite(ctx context.Context, w Wrote) {
	c, ok := ctx.Value(collecting{}).(*collector)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrote) == maxWrote {
		c.wrote = c.wrote[1:] // the last one of a record says most
		c.more++
	}
	c.wrote = append(c.wrote, w)
}

// WritesOf returns what was written under a context of CollectWrites, in its order, and how much of that was left out at the beginning.
func WritesOf(ctx context.Context) Writes {
	c, ok := ctx.Value(collecting{}).(*collector)
	if !ok {
		return Writes{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return Writes{slices.Clone(c.wrote), c.more}
}

// Writes is what WritesOf returns.
type Writes struct {
	Last []Wrote
	More int // before those
}

// The names of the members of additionalEventData.
const (
	wroteMember     = "storeRecords"
	moreWroteMember = "storeRecordsLeftOut"
)

// append appends what additionalEventData shows of what was written.
func (w Writes) append(b []byte) []byte {
	b = append(b, `"`+wroteMember+`":[`...)
	for i, one := range w.Last {
		if i > 0 {
			b = append(b, ',')
		}
		b = one.append(b)
	}
	b = append(b, ']')
	if w.More > 0 {
		b = strconv.AppendInt(append(b, `,"`+moreWroteMember+`":`...), int64(w.More), 10)
	}
	return b
}

func (w Wrote) append(b []byte) []byte {
	b = appendText(append(b, `{"record":`...), cut(w.Record, maxWroteText))
	if w.Deleted {
		b = strconv.AppendUint(append(b, `,"revision":`...), w.Revision, 10)
		b = append(b, `,"deleted":true`...)
	} else {
		b = Stored{w.Revision, w.SHA256}.append(append(b, ','))
	}
	if w.Commit > 0 {
		b = strconv.AppendUint(append(b, `,"commit":`...), w.Commit, 10)
	}
	b = strconv.AppendUint(append(b, `,"epoch":`...), uint64(w.Epoch), 10)
	if w.Was != nil {
		b = append(w.Was.append(append(b, `,"was":{`...)), '}')
	}
	if w.Unsure {
		b = append(b, `,"unsure":true`...)
	}
	return append(b, '}')
}

// append appends the members of a record that is stored.
func (s Stored) append(b []byte) []byte {
	b = strconv.AppendUint(append(b, `"revision":`...), s.Revision, 10)
	return append(hex.AppendEncode(append(b, `,"sha256":"`...), s.SHA256[:]), '"')
}

// appendAdditional appends additionalEventData, if there is any.
func (e *Event) appendAdditional(b []byte) []byte {
	if len(e.Additional) == 0 && len(e.Wrote.Last) == 0 || e.hidden() {
		return b
	}
	b = append(b, `,"additionalEventData":{`...)
	if len(e.Wrote.Last) > 0 {
		b = e.Wrote.append(b)
		if len(e.Additional) > 0 {
			b = append(b, ',')
		}
	}
	if len(e.Additional) > 0 {
		whole := len(b)
		b = appendAny(b, e.Additional)
		b = append(b[:whole], b[whole+1:]...) // without its brace
		return b
	}
	return append(b, '}')
}
