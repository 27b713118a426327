package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/pkcs11kms/bridge/keystore"
)

// Options are what may be chosen when a store is opened. The zero value is right for most.
type Options struct {
	// LocksDir is the directory of the instances' lock files. Default: "locks" beside the store's file. All who open
	// one store must name the same directory: with another they would take living instances for dead ones.
	LocksDir string
	// Logger gets what is worth knowing but no error. Default: nothing is logged.
	Logger *slog.Logger
	// Migrating is told before Migrate changes the store, once nobody else has it open. An error keeps it from being changed.
	Migrating func(from, to int) error
}

// Store is a keystore.Store in an SQLite file. Make one with Open. It is safe for concurrent use.
type Store struct {
	path     string // without symbolic links
	found    os.FileInfo
	header   int64 // the version in the main file; the journal may hold a later one
	opened   bool  // Open has succeeded
	locks    string
	logger   *slog.Logger
	instance string

	migrating func(from, to int) error

	lock *os.File

	// Calls hold the gate shared for as long as they run, Close holds it alone. Closing is closed first, so that
	// calls which wait for something give up.
	gate      sync.RWMutex
	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error

	final atomic.Pointer[error] // set once: why the store can be used no more

	readOnly error // the answer of every Commit, when the file system is mounted read-only; see readonly.go
	frozen   bool  // nobody had the store open then: nothing of it is in a journal

	readers *sql.DB // read.go; its statements are safe for concurrent use
	read    readStatements
	writer  writer // commit.go
	watch   watch  // changes.go
}

var _ keystore.Store = (*Store)(nil)

// readerCount is enough to keep a few processors busy: a read takes tens of microseconds.
const readerCount = 4

// Open opens the store at path. It never creates one, see Create, and refuses one of an older version, see Migrate. On a file
// system that is mounted read-only it opens for reading.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	s := newStore(path, o)
	err := s.locate(ctx)
	if err == nil {
		err = s.checkVersion(ctx)
	}
	if err != nil {
		return nil, fail(ctx, "open", s.path, err)
	}
	if err := s.start(ctx); err != nil {
		_ = s.Close() // the first error says more
		return nil, fail(ctx, "open", s.path, err)
	}
	s.opened = true // start has made everything
	return s, nil
}

func newStore(path string, o Options) *Store {
	s := &Store{path: path, locks: o.LocksDir, logger: o.Logger, migrating: o.Migrating, closing: make(chan struct{})}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	return s
}

// locate finds the file and makes sure that it is a store, before anything is written.
func (s *Store) locate(ctx context.Context) error {
	path, err := filepath.Abs(s.path)
	if err == nil {
		// The journal and the locks stand beside the file itself, whatever link led to it.
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return missingError(s.path, err)
	}
	s.path = path
	if s.found, err = os.Stat(path); err != nil {
		return missingError(path, err)
	}
	if err := checkFile(path, s.found); err != nil {
		return err
	}
	if s.header, err = checkHeader(ctx, path); err != nil {
		return err
	}
	if s.locks == "" {
		s.locks = filepath.Join(filepath.Dir(path), locksName)
	}
	return makeLocksDir(s.locks)
}

func missingError(path string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return &Error{Op: "open", Path: path, Err: errors.New("no such file"),
		hint: "Check the path, and whether the file system is mounted. If the store is lost, restore it from a backup;\n" +
			"a new one is made together with a new state directory: pkcs11kms init --help"}
}

// start takes the instance's lock and makes all connections.
func (s *Store) start(ctx context.Context) (err error) {
	if s.instance, s.lock, err = lockInstance(s.locks); errors.Is(err, syscall.EROFS) {
		return s.startReadOnly(ctx, err)
	}
	if err != nil {
		return err
	}
	if err := s.writer.open(ctx, s); err != nil {
		return err
	}
	if err := s.watch.open(ctx, s); err != nil {
		return err
	}
	if err := s.watch.prepare(ctx); err != nil {
		return err
	}
	if err := s.openReaders(ctx); err != nil {
		return err
	}
	s.sweep(ctx)
	return nil
}

// enter begins a call, which must end with leave.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("use store: %w", err)
	}
	select {
	case <-s.closing:
		return keystore.ErrClosed
	default:
	}
	s.gate.RLock()
	select {
	case <-s.closing:
		s.gate.RUnlock()
		return keystore.ErrClosed
	default:
	}
	if final := s.final.Load(); final != nil {
		s.gate.RUnlock()
		return *final
	}
	return nil
}

func (s *Store) leave() { s.gate.RUnlock() }

// inPlace tells whether the file at the path is still the one that was opened. When it is not, the store is of no
// more use: what it would still acknowledge goes to a file that nobody else sees.
func (s *Store) inPlace() error {
	info, err := os.Stat(s.path)
	switch {
	case err == nil && os.SameFile(info, s.found):
		return s.stillFrozen()
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return s.end(&Error{Op: "use", Path: s.path, Err: keystore.ErrReplaced,
			hint: "The file was moved, removed or replaced. Restart the program to use what is there now."})
	}
	return err
}

// end makes err the answer of every further call.
func (s *Store) end(err error) error {
	s.final.CompareAndSwap(nil, &err)
	return *s.final.Load()
}

// Close implements keystore.Store. It waits for the calls under way; those that wait themselves, for a lock or for
// their turn, end with keystore.ErrClosed.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		s.gate.Lock()
		defer s.gate.Unlock()
		s.closeErr = s.shut()
	})
	return s.closeErr
}

// shut gives back whatever start has made. The lock goes after the writer, so that the instance looks alive for as
// long as it could commit, and before the readers, which tell what it leaves behind.
func (s *Store) shut() error {
	errs := []error{s.writer.close(), s.watch.close()}
	if s.lock != nil {
		errs = append(errs, s.retire(context.Background()))
	}
	if s.readers != nil {
		errs = append(errs, s.readers.Close())
	}
	return fail(context.Background(), "close", s.path, errors.Join(errs...))
}
