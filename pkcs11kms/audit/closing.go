package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// What comes after a closed file is written at once, and nobody waits for the disk to have the closed one. Until it has, the next file
// has a name of its own (.jsonl.new): so no power cut leaves a file whose name says that records were before it which the disk never had.

// closedFile is one that nothing is added to any more, on its way to the disk.
type closedFile struct {
	file
	f    *os.File
	size int64
	last uint64 // the number of the last record in it
	err  error  // of a sync before, which a second one would not repeat
}

// maxClosing is how many closed files may wait for the disk. With more, the one that is written to becomes longer.
const maxClosing = 16

// missing are records that a sync which has failed was for: who waits for one of them is told so, whatever comes after it.
type missing struct {
	after, to uint64
	err       error
}

func (m missing) of(seq uint64) error {
	if m.after < seq && seq <= m.to {
		return m.err
	}
	return nil
}

// sync waits until a record is on the disk.
func (l *Log) sync(seq uint64) error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	if l.synced.Load() >= seq {
		return l.missing.of(seq)
	}
	f, upTo, err := l.settle()
	if l.synced.Load() >= seq {
		return l.missing.of(seq)
	}
	if err == nil {
		if err = l.timed(f.Sync); err == nil {
			l.counts.syncs.Add(1)
			raise(&l.synced, upTo)
			return nil
		}
		l.mu.Lock()
		l.failed, l.suspect, l.unsynced = err, true, err
		l.mu.Unlock()
		l.o.Logger.Error("the audit log cannot be synced: calls are refused", "file", f.Name(), "error", err)
	}
	return err
}

// timed syncs, so that one which does not come back is seen.
func (l *Log) timed(sync func() error) error {
	l.syncBegan.Store(time.Now().UnixNano())
	defer l.syncBegan.Store(0)
	return sync()
}

func raise(to *atomic.Uint64, n uint64) {
	for old := to.Load(); old < n; old = to.Load() {
		if to.CompareAndSwap(old, n) {
			return
		}
	}
}

// settle brings the closed files to the disk, in their order, and gives each file its name when the one before is there. It returns the
// file that is written to then, its last record, and why it need not be synced. syncing is held.
func (l *Log) settle() (f *os.File, upTo uint64, failed error) {
	for {
		l.mu.Lock()
		if len(l.closing) == 0 {
			defer l.mu.Unlock()
			return l.file, l.written.seq, l.unsynced
		}
		c := l.closing[0]
		l.mu.Unlock()
		err := c.f.Truncate(c.size) // gives back what was kept
		if c.err == nil && l.o.Fsync != FsyncOff {
			if c.err = l.timed(c.f.Sync); c.err == nil {
				l.counts.syncs.Add(1)
			} else {
				l.o.Logger.Error("a closed file of the audit log cannot be synced: calls that wait for it are refused", "file", c.path,
					"error", c.err)
			}
		}
		l.nameNext()
		l.mu.Lock()
		if c = l.closing[0].with(c.err); c.err != nil {
			l.failed = c.err
		}
		l.closing = l.closing[1:]
		l.mu.Unlock()
		if c.err != nil {
			l.missing = missing{after: l.synced.Load(), to: c.last, err: c.err}
		}
		raise(&l.synced, c.last)
		if err = errors.Join(err, c.f.Close()); err != nil {
			l.o.Logger.Warn("closing a file of the audit log", "file", c.path, "error", err)
		}
		l.packer.later([]file{c.file})
	}
}

func (c closedFile) with(err error) closedFile {
	c.err = err
	return c
}

// nameNext gives the file after the one that is settled its name. syncing is held.
func (l *Log) nameNext() {
	l.mu.Lock()
	next := &l.current
	if len(l.closing) > 1 {
		next = &l.closing[1].file
	}
	named := *next
	l.mu.Unlock()
	if !named.fresh {
		return
	}
	if err := os.Rename(named.name(), named.path); err != nil {
		l.o.Logger.Warn("a file of the audit log keeps its first name", "file", named.name(), "error", err)
		return
	}
	if err := syncDir(l.dir); err != nil { // it is there all the same
		l.o.Logger.Warn("syncing the directory of the audit log", "error", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.closing) > 1 { // it may have been closed meanwhile
		l.closing[1].fresh = false
	} else {
		l.current.fresh = false
	}
}

// adopt gives the last files of a chain, which a killed process has left, their names. Those that do not follow what the disk has of the
// file before were written in the last moment before a power cut, and nobody was told that they are on the disk: they are laid aside,
// and a record tells of it. It returns the files of the chain.
func (l *Log) adopt(files []file) ([]file, error) {
	fresh := len(files)
	for fresh > 0 && files[fresh-1].fresh {
		fresh--
	}
	for i := fresh; i < len(files); i++ {
		if i > 0 && !follows(files[:i], files[i]) {
			return files[:i], l.layAside(files[i:])
		}
		if err := l.adoptFile(files[max(0, i-1)], &files[i]); err != nil {
			return files, err
		}
	}
	return files, nil
}

// follows tells whether a file begins with the record after the last one of those.
func follows(files []file, next file) bool {
	end, err := endOf(files)
	return err == nil && len(end.torn) == 0 && end.place.seq+1 == next.first
}

func (l *Log) adoptFile(before file, f *file) error {
	if l.o.Fsync != FsyncOff {
		r, err := os.Open(before.name())
		if err != nil {
			return err
		}
		if err := errors.Join(r.Sync(), r.Close()); err != nil {
			return err
		}
	}
	name := f.name()
	f.fresh = false
	return errors.Join(os.Rename(name, f.path), syncDir(l.dir))
}

// asideSuffix is of a file that belongs to no chain any more.
const asideSuffix = ".aside"

func (l *Log) layAside(files []file) error {
	for _, f := range files {
		text, err := os.ReadFile(f.name())
		if err != nil {
			return err
		}
		if len(text) == 0 {
			if err := os.Remove(f.name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		aside := f.path + asideSuffix
		if err := os.Rename(f.name(), aside); err != nil {
			return err
		}
		l.aside = append(l.aside, map[string]any{"file": filepath.Base(aside), "bytes": len(text), "sha256": hexOf(hashOf(text))})
		l.o.Logger.Error("records that were not yet on the disk when the power was cut belong to no chain", "file", aside,
			"problem", fmt.Sprintf("the disk does not have all that was before record %d", f.first))
	}
	return syncDir(l.dir)
}
