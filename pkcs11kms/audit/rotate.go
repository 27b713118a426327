package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

const (
	syncInterval = time.Second // in which what nobody waited for gets on the disk, and the disk is looked at
	chunk        = 1 << 20     // how much room the file system keeps at a time
)

// admit makes sure that there is room for a record, and for the outcome of an intent. The outcome itself has its room. mu is held.
func (l *Log) admit(n int64, e *Event) error {
	if l.closed {
		return ErrClosed
	}
	if l.hangs() {
		return errHangs
	}
	if len(l.kept) > 0 && e.Kind != Intent {
		if kept, ok := l.kept[e.RequestID]; ok {
			delete(l.kept, e.RequestID)
			l.reserved -= kept
			return l.repair()
		}
	}
	if l.full.Load() {
		return l.fullError()
	}
	if err := l.repair(); err != nil {
		return err
	}
	if e.Kind != Intent {
		return l.room(l.end + n + l.reserved)
	}
	keep := int64(maxOutcome(int(n)))
	if e.Across != nil {
		keep *= 2 // the outcome has two records
	}
	if err := l.room(l.end + n + l.reserved + keep); err != nil {
		return err
	}
	l.kept[e.RequestID] += keep
	l.reserved += keep
	return nil
}

// hungAfter is how long a write or sync may take before the disk counts as one that does not answer.
const hungAfter = 10 * time.Second

var errHangs = fmt.Errorf("the disk of the audit log has not answered for %v", hungAfter)

// hangs tells whether a write or sync does not come back. Who waits for it goes on to wait; who comes later is refused. mu is held.
func (l *Log) hangs() bool {
	if !l.since.IsZero() && time.Since(l.since) > hungAfter {
		return true
	}
	began := l.syncBegan.Load()
	return began != 0 && time.Since(time.Unix(0, began)) > hungAfter
}

// release gives back what is kept for the outcome of a request.
func (l *Log) release(requestID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved -= l.kept[requestID]
	delete(l.kept, requestID)
}

// room has the file system keep room up to a size of the file. mu is held.
func (l *Log) room(to int64) error {
	if to > l.limit {
		return &fullError{fmt.Sprintf("files of this process may not become longer than %d bytes", l.limit),
			"allow longer files (ulimit -f): nothing is done without a record of it in the audit log"}
	}
	if to <= l.allocated {
		return nil
	}
	most := min(to+chunk, l.limit)
	if !l.cannot {
		if err := l.allocate(to, most); err != nil || !l.cannot {
			return err
		}
	}
	_, free, err := freePercent(l.dir)
	switch {
	case err != nil:
		return err
	case free < to-l.size:
		return &fullError{fmt.Sprintf("%d bytes are left", free), makeRoom}
	case free >= most-l.size:
		l.allocated = most // which somebody else may take meanwhile
	}
	return nil
}

// allocate keeps room up to most or, where there is not so much, least. mu is held.
func (l *Log) allocate(least, most int64) error {
	for _, to := range []int64{most, least} {
		can, err := allocate(l.file, l.size, to)
		if err == nil {
			if l.cannot = !can; can {
				l.allocated = to
			}
			return nil
		}
		if to == least {
			return &fullError{err.Error(), makeRoom}
		}
	}
	return nil
}

// repair makes the file one that can be written to again. mu is held.
func (l *Log) repair() error {
	if !l.torn && !l.suspect {
		return nil
	}
	if l.leading {
		return l.failed
	}
	if l.torn {
		if err := l.file.Truncate(l.size); err != nil {
			return err
		}
		l.torn, l.allocated = false, l.size
	}
	if l.suspect {
		return l.rotate()
	}
	return nil
}

// due tells whether the file is to be closed. mu is held.
func (l *Log) due() bool {
	if l.size == 0 || l.torn {
		return false
	}
	now := l.o.Now()
	old := l.size >= min(l.o.RotateBytes, l.limit/2) || now.Sub(l.began) >= l.o.RotateAge
	return (old || l.wanted) && !now.Before(l.retry) && len(l.closing) < maxClosing
}

// rotate goes on in a new file. While that fails, the old one is written to, unless it is not to be. What the disk takes time for is
// left to settle. mu is held, and nobody writes.
func (l *Log) rotate() error {
	if l.suspect && l.size == 0 && l.there() {
		l.suspect, l.unsynced = false, nil // there is nothing to be lost
		return nil
	}
	old := closedFile{file: l.current, f: l.file, size: l.size, last: l.written.seq, err: l.unsynced}
	next := file{number: l.current.number, first: l.written.seq + 1, fresh: l.o.Fsync != FsyncOff && !l.suspect}
	if err := l.create(next); err != nil {
		if now := l.o.Now(); !now.Before(l.retry) {
			l.retry = now.Add(syncInterval)
			l.o.Logger.Error("no new file can be made for the audit log", "file", old.path, "error", err)
		}
		if l.suspect {
			l.failed = err // and calls are refused
		}
		return err
	}
	l.closing = append(l.closing, old)
	l.wanted, l.suspect, l.unsynced = false, false, nil
	l.end = int64(len(l.filling.buf)) // of what is in no file yet
	if err := l.room(l.end + l.reserved); err != nil {
		l.o.Logger.Warn("the new file of the audit log has less room than is promised", "error", err)
	}
	l.sealSoon()
	select {
	case l.shut <- struct{}{}:
	default:
	}
	return nil
}

// Rotate closes the file, which is compressed, and goes on in a new one, if there is anything in it: for what ships closed files.
func (l *Log) Rotate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = l.size > 0
	if l.wanted && !l.leading && !l.closed {
		_ = l.rotate() // logged, and tried again
	}
}

// run looks after the log until it is closed.
func (l *Log) run() {
	tick := time.NewTicker(syncInterval)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-l.shut:
			l.settled()
		case <-tick.C:
			l.look()
			l.tend()
		}
	}
}

// settled has the disk take the closed files.
func (l *Log) settled() {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	l.settle()
}

// look looks at the disk.
func (l *Log) look() {
	percent, _, err := freePercent(l.dir)
	if err != nil {
		l.o.Logger.Warn("the audit log cannot see how much of its disk is left", "error", err)
		return
	}
	before := l.spaceWarning()
	l.free.Store(uint64(percent * 100))
	was := l.full.Swap(percent <= spaceRefusing)
	switch after := l.spaceWarning(); {
	case l.full.Load() && !was:
		l.o.Logger.Error("the disk of the audit log is full: calls are refused", "free_percent", percent)
	case was && !l.full.Load():
		l.o.Logger.Info("the disk of the audit log has room again", "free_percent", percent)
	case (after == "") != (before == ""):
		l.o.Logger.Warn("free space of the audit log's disk", "free_percent", percent)
	}
}

// tend syncs what nobody waits for, begins a new file when it is time or the old one has gone, and tries again what has failed.
func (l *Log) tend() {
	l.mu.Lock()
	lost := ""
	if !l.suspect && !l.there() {
		lost, l.suspect = l.current.path, true
	}
	if !l.leading { // whoever leads does it
		if l.failed != nil || l.suspect {
			if l.failed = l.repair(); l.failed == nil {
				l.failed = l.room(l.end + l.reserved + maxRecord)
			}
		}
		if l.due() {
			_ = l.rotate() // logged, and tried again
		}
	}
	written := l.written.seq
	l.mu.Unlock()
	if lost != "" {
		l.o.Logger.Error("the file of the audit log is not where it was", "file", lost)
		_ = l.tell(fileVanished, map[string]any{"file": lost}) // logged, and told by Health
	}
	l.tellGaps(false)
	if l.o.Fsync != FsyncOff && l.synced.Load() < written {
		_ = l.sync(written) // as is this
	}
}

// there tells whether the path of the file still leads to it. mu is held.
func (l *Log) there() bool {
	open, err := l.file.Stat()
	named, err2 := os.Stat(l.current.name())
	if errors.Is(err2, fs.ErrNotExist) && l.current.fresh { // it gets its name at this moment
		named, err2 = os.Stat(l.current.path)
	}
	if errors.Is(err2, fs.ErrNotExist) {
		return false
	}
	return err != nil || err2 != nil || os.SameFile(open, named)
}
