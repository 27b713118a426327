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
}

// maxWrote bounds how many records an event shows: as many as one change of the store can have. maxWroteText bounds the bytes of one.
const (
	maxWrote     = 64
	maxWroteText = 300 // an alias has the longest name: 256 characters, a region and an account

	maxWroteBytes = maxWrote * (6*maxWroteText/5 + 128) // of all; names are of few characters that need an escape
)

type collector struct {
	mu    sync.Mutex // guards wrote
	wrote []Wrote
}

type collecting struct{}

// CollectWrites returns a context for what writes to the store, by which WritesOf knows what was written. One that is such a context
// already stays.
func CollectWrites(ctx context.Context) context.Context {
	if _, ok := ctx.Value(collecting{}).(*collector); ok {
		return ctx
	}
	return context.WithValue(ctx, collecting{}, &collector{})
}

// CollectBatch is CollectWrites for a part of the work that has a record of its own: what ctx collects does not hear of it.
func CollectBatch(ctx context.Context) context.Context {
	return context.WithValue(ctx, collecting{}, &collector{})
}

// NoteWrite notes what was written to the store, if anybody collects that. Of a record the last write counts.
func NoteWrite(ctx context.Context, w Wrote) {
	c, ok := ctx.Value(collecting{}).(*collector)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrote = slices.DeleteFunc(c.wrote, func(other Wrote) bool { return other.Record == w.Record })
	if len(c.wrote) < maxWrote {
		c.wrote = append(c.wrote, w)
	}
}

// WritesOf returns what was written under a context of CollectWrites.
func WritesOf(ctx context.Context) []Wrote {
	c, ok := ctx.Value(collecting{}).(*collector)
	if !ok {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.wrote)
}

// wroteMember is the name of the member of additionalEventData.
const wroteMember = "storeRecords"

// appendWrote appends what additionalEventData shows of what was written.
func appendWrote(b []byte, wrote []Wrote) []byte {
	b = append(b, '[')
	for i, w := range wrote {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(append(b, `{"record":`...), cut(w.Record, maxWroteText))
		b = strconv.AppendUint(append(b, `,"revision":`...), w.Revision, 10)
		if w.Deleted {
			b = append(b, `,"deleted":true}`...)
			continue
		}
		b = hex.AppendEncode(append(b, `,"sha256":"`...), w.SHA256[:])
		b = append(b, `"}`...)
	}
	return append(b, ']')
}

// appendAdditional appends additionalEventData, if there is any.
func (e *Event) appendAdditional(b []byte) []byte {
	if len(e.Additional) == 0 && len(e.Wrote) == 0 {
		return b
	}
	b = append(b, `,"additionalEventData":{`...)
	if len(e.Wrote) > 0 {
		b = appendWrote(append(b, `"`+wroteMember+`":`...), e.Wrote)
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
