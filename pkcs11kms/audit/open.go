package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Open opens the log of a directory, which is made when it is missing. It continues the newest chain that no process writes to, and begins
// one where all are in use: what runs one after the other shares a chain. A chain whose end is not what was written there is left alone,
// and told to the Logger; what a killed process has written half is kept, and a record says so.
func Open(dir string, o Options) (l *Log, err error) {
	l = &Log{dir: dir, o: o.withDefaults(), filling: &batch{}, limit: fileLimit(), stop: make(chan struct{}), shut: make(chan struct{}, 1),
		nudge: make(chan struct{}, 1),
		kept:  map[string]int64{}, packer: packer{some: make(chan struct{}, 1)}}
	l.idle = sync.NewCond(&l.mu)
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	sinks, err := l.o.sinks()
	if err != nil {
		return nil, err
	}
	torn, err := l.takeChain()
	if err != nil {
		for _, s := range sinks {
			_, closing := s.close()
			err = errors.Join(err, closing)
		}
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	l.written, l.end = l.place, l.size
	l.synced.Store(0) // what others have left unsynced counts as not synced
	l.free.Store(100 * 100)
	l.look()
	for _, s := range sinks {
		l.sinks = append(l.sinks, newShipper(s, l.o))
	}
	l.tasks.Go(l.run)
	l.tasks.Go(func() { l.packer.run(l.stop, l.o.Logger) })
	if torn != nil {
		err = l.tell(tornRecord, torn)
	}
	for _, aside := range l.aside {
		err = errors.Join(err, l.tell(fileAside, aside))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the audit log: %w", err), l.Close())
	}
	return l, nil
}

// The log's own events.
const (
	ownService   = "pkcs11kms"
	tornRecord   = "AuditRecordTorn"    // a line was found that is half written; additionalEventData tells its bytes and their SHA-256
	fileVanished = "AuditFileVanished"  // the file that was written to is not where it was
	fileAside    = "AuditFileLaidAside" // a file was laid aside that does not follow what the disk has; its bytes are told
)

// tell records an event of the log's own.
func (l *Log) tell(operation string, what map[string]any) error {
	return l.take(&Event{Kind: ServiceEvent, Service: ownService, Operation: operation, Additional: what})
}

// makeDir makes the directory, and refuses one that others may use.
func makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%q is no directory", dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%q is open to other users (mode %#o): close it by chmod go-rwx", dir, info.Mode().Perm())
	}
	return nil
}

// takeChain takes the chain that is to be continued, or begins one. torn is what a record must tell of its last line.
func (l *Log) takeChain() (torn map[string]any, err error) {
	for {
		found, err := list(l.dir)
		if err != nil {
			return nil, err
		}
		next := 1
		for _, number := range found.numbers() {
			next = number + 1
		}
		for i := len(found.locks) - 1; i >= 0; i-- {
			number := found.locks[i]
			lock, err := lockChain(lockPath(l.dir, number), 0)
			if err != nil {
				return nil, err
			}
			if lock == nil {
				continue
			}
			// What was listed before the lock was taken may be old.
			if found, err = list(l.dir); err == nil {
				torn, err = l.resume(lock, number, found.files[number])
			}
			if err == nil {
				return torn, nil
			}
			_ = lock.Close() // the error counts
			if !errors.Is(err, errBroken) {
				return nil, err
			}
			l.o.Logger.Error("a chain of the audit log does not end as it was written: it is left alone", "chain", number, "error", err)
		}
		lock, err := lockChain(lockPath(l.dir, next), os.O_CREATE|os.O_EXCL)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if lock != nil {
			if err := l.begin(lock, next, newChainID()); err != nil {
				return nil, errors.Join(err, lock.Close())
			}
			return nil, nil
		}
	}
}

// lockChain opens and locks a lock file. Without an error it returns nil when another process has it.
func lockChain(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|flags, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = nil
	}
	return nil, errors.Join(err, f.Close())
}

func newChainID() string {
	id := make([]byte, 0, chainDigits)
	for n := rand.Uint64(); len(id) < chainDigits; n >>= 4 {
		id = append(id, hexDigits[n&0xf])
	}
	return string(id)
}

// begin begins the file of a chain that has none. The lock file gets the chain's id afterwards: one that has an id and no file tells that
// files were removed.
func (l *Log) begin(lock *os.File, number int, id string) error {
	l.lock, l.place = lock, link{chain: id}
	if err := l.create(file{number: number, first: 1}); err != nil {
		return err
	}
	if err := lock.Truncate(0); err != nil {
		return err
	}
	if _, err := lock.WriteAt([]byte(id+"\n"), 0); err != nil {
		return err
	}
	if l.o.Fsync == FsyncOff {
		return nil
	}
	return errors.Join(lock.Sync(), syncDir(l.dir))
}

// create makes the next file of a chain, and writes to it from now on.
func (l *Log) create(next file) error {
	next.path = filePath(l.dir, next.number, next.first)
	f, err := os.OpenFile(next.name(), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	l.file, l.current, l.size, l.allocated, l.began = f, next, 0, 0, l.o.Now()
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// errBroken says that a chain cannot be continued.
var errBroken = errors.New("the chain is broken")

// resume continues a chain that this process has locked.
func (l *Log) resume(lock *os.File, number int, files []file) (torn map[string]any, err error) {
	id, err := lockedID(lock)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		if id != "" {
			return nil, fmt.Errorf("%w: all of its files have gone", errBroken)
		}
		return nil, l.begin(lock, number, newChainID())
	}
	if files, err = l.adopt(files); err != nil {
		return nil, err
	}
	end, err := endOf(files)
	if err != nil {
		return nil, err
	}
	if end.place.chain == "" { // nothing was written
		end.place.chain = id
	}
	if !isChainID(end.place.chain) || id != "" && id != end.place.chain {
		return nil, fmt.Errorf("%w: its lock names the chain %q, and its records %q", errBroken, id, end.place.chain)
	}
	newest := files[len(files)-1]
	if newest.packed {
		return nil, fmt.Errorf("%w: its last file %q is compressed", errBroken, newest.name())
	}
	f, err := os.OpenFile(newest.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	if torn, err = l.resumeFile(f, end); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l.lock, l.file, l.current, l.place, l.size = lock, f, newest, end.place, end.size
	l.allocated, l.began = end.size, end.began
	l.packer.later(files[:len(files)-1])
	if err := sweepIndexes(l.dir, number); err != nil {
		l.o.Logger.Warn("indexes of the audit log whose files have gone stay", "error", err)
	}
	return torn, nil
}

// resumeFile ends a torn line, so that it stands by itself.
func (l *Log) resumeFile(f *os.File, end chainEnd) (torn map[string]any, err error) {
	if len(end.torn) == 0 {
		return nil, nil
	}
	sum := sha256.Sum256(end.torn)
	_, err = f.Write([]byte{'\n'})
	return map[string]any{"bytes": len(end.torn), "sha256": hex.EncodeToString(sum[:])}, err
}

func lockedID(lock *os.File) (string, error) {
	text := make([]byte, chainDigits+1)
	n, err := lock.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return string(bytes.TrimSpace(text[:n])), nil
}
