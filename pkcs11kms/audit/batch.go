package audit

import (
	"runtime"
	"time"
)

// batch is records that are written together. It belongs to its Log's mu until somebody writes it.
type batch struct {
	buf     []byte
	last    link // place of the last record
	records int
	err     error         // what became of it; set before done is closed
	done    chan struct{} // closed when it is written, or is not to be; nil while nobody waits
	lead    chan struct{} // has one of those who wait write it
}

// finish tells those who wait what became of the batch.
func (b *batch) finish(err error) {
	b.err = err
	if b.done != nil {
		close(b.done)
	}
}

// put gives the record of an event its place, and behind it that for the owner if there is one, and returns when they are written, by this
// goroutine or another.
func (l *Log) put(record, owners []byte, e *Event) (seq uint64, err error) {
	n := int64(len(record) + maxLink)
	if owners != nil {
		n += int64(len(owners) + maxLink)
	}
	l.mu.Lock()
	if err := l.admit(n, e); err != nil {
		l.mu.Unlock()
		return 0, err
	}
	if l.fresh.IsZero() && e.Kind != Seal {
		l.fresh = time.Now()
	}
	b := l.filling
	l.chain(b, record)
	if owners != nil {
		l.chain(b, owners)
	}
	seq = l.place.seq
	if !l.leading {
		l.leading = true
		l.gather()
		err = l.write()
		return seq, err
	}
	if b.done == nil {
		b.done, b.lead = make(chan struct{}), make(chan struct{}, 1)
	}
	l.mu.Unlock()
	select {
	case <-b.done:
		return seq, b.err
	case <-b.lead:
		l.mu.Lock()
		return seq, l.write()
	}
}

// chain puts a record into a batch, behind the one that was put last. mu is held.
func (l *Log) chain(b *batch, record []byte) {
	start := len(b.buf)
	l.place.seq++
	b.buf = l.place.append(append(b.buf, record...))
	l.place.prev = hashOf(b.buf[start:])
	b.buf = append(b.buf, '\n')
	b.last = l.place
	b.records++
	l.end += int64(len(b.buf) - start)
}

// gather lets others put their records into the batch, where there are such: calls that can run now do, up to their records. Whether it is
// worth that is what the last batch tells, and a try now and then. mu is held, and given up for a moment.
func (l *Log) gather() {
	if l.turns++; !l.shared && l.turns%tryEvery != 0 {
		return
	}
	l.mu.Unlock()
	runtime.Gosched()
	l.mu.Lock()
}

// tryEvery is how often gather tries where calls come one at a time.
const tryEvery = 16

// write writes the batch that is being filled, and gives the lead on. mu is held, and let go.
func (l *Log) write() error {
	defer l.mu.Unlock()
	b := l.filling
	l.filling = &batch{buf: l.spare()}
	f := l.file
	l.since = time.Now()
	l.mu.Unlock()
	_, err := f.Write(b.buf)
	if err == nil {
		l.counts.writes.Add(1)
		for _, s := range l.sinks {
			s.put(bundle{first: b.last.seq + 1 - uint64(b.records), records: b.records, lines: b.buf})
		}
	}
	l.mu.Lock()
	l.since = time.Time{}
	if err != nil {
		l.fail(err)
	} else {
		l.size += int64(len(b.buf))
		l.written, l.failed = b.last, nil
	}
	l.shared = b.records > 1
	if cap(b.buf) <= 1<<20 {
		l.buffer.Put(&b.buf)
	}
	if l.due() || l.suspect && !l.torn {
		_ = l.rotate() // logged, and tried again
	}
	b.finish(err)
	if len(l.filling.buf) > 0 {
		l.filling.lead <- struct{}{}
	} else {
		l.leading = false
		l.idle.Broadcast()
	}
	return err
}

// spare returns a buffer for the next batch.
func (l *Log) spare() []byte {
	if buf, _ := l.buffer.Get().(*[]byte); buf != nil {
		return (*buf)[:0]
	}
	return nil
}

// fail takes back what was put since the last successful write: those records are in no file, and their calls are refused. mu is held.
func (l *Log) fail(err error) {
	l.failed, l.torn = err, true
	l.filling.finish(err)
	l.filling = &batch{}
	l.place, l.end = l.written, l.size
	l.o.Logger.Error("the audit log cannot be written: calls are refused", "file", l.current.path, "error", err)
}
