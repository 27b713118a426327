package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/pkcs11kms/bridge/keystore"
)

var _ keystore.Backuper = (*Store)(nil)

const (
	opBackup   = "write backup"
	copyStep   = 256 // pages that are copied between two looks at the context
	copyPauses = 10 * time.Millisecond
)

// Backup implements keystore.Backuper. The file is a store itself, with mode 0600; Restore puts it in a store's place. Backup first
// removes what backups and restores of this store have left that were killed: see DeadDrafts.
func (s *Store) Backup(ctx context.Context, path string) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if s.readOnly == nil { // else nothing can be removed beside the store
		s.removeDrafts()
	}
	err := s.writeCopy(ctx, path, func(draft string) error { return s.copyTo(ctx, draft, s.current) })
	if errors.Is(err, keystore.ErrClosed) {
		return err
	}
	return fail(ctx, opBackup, path, err)
}

// writeCopy makes a verified file of what fill writes to its draft. What is at path is never replaced, and without success nothing is
// left there.
func (s *Store) writeCopy(ctx context.Context, path string, fill func(draft string) error) error {
	if err := checkVacant(opBackup, path); err != nil {
		return err
	}
	draft := draftOf(path)
	if s.readOnly == nil { // else nothing can be noted beside the store
		noted, err := noteDraft(s.locks, draft)
		if err != nil {
			return err
		}
		defer noted()
	}
	defer removeDraft(draft)
	if err := fill(draft); err != nil {
		return err
	}
	if err := verifyFile(ctx, draft); err != nil {
		return err
	}
	if err := seal(draft); err != nil {
		return err
	}
	return publish(opBackup, draft, path)
}

// copyTo copies one moment of the store, of which look reads something first. The transaction holds that moment for all steps;
// without it every commit of another connection would make the copy begin anew.
func (s *Store) copyTo(ctx context.Context, draft string, look func(*sql.Conn) error) (err error) {
	return s.inMoment(ctx, func(conn *sql.Conn) error {
		// The transaction begins with the first read, which is this one.
		if err := look(conn); err != nil {
			return err
		}
		return copyPages(ctx, conn, draft, s.closing)
	})
}

// copyPages makes a new file of the pages that the connection sees, by SQLite's own functions: they know what is in the
// journal, and leave the locks of other connections alone.
func copyPages(ctx context.Context, source *sql.Conn, draft string, closing <-chan struct{}) (err error) {
	if err := newFile(draft); err != nil {
		return err
	}
	db := writing(draft, nil).open(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	target, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	return target.Raw(func(to any) error {
		return source.Raw(func(from any) error {
			copying, err := to.(*sqlite3.SQLiteConn).Backup("main", from.(*sqlite3.SQLiteConn), "main")
			if err != nil {
				return err
			}
			if err := copyAll(ctx, copying, closing); err != nil {
				_ = copying.Finish() // says the same once more
				return err
			}
			return copying.Finish()
		})
	})
}

func copyAll(ctx context.Context, copying *sqlite3.SQLiteBackup, closing <-chan struct{}) error {
	pause := time.NewTicker(copyPauses)
	defer pause.Stop()
	for {
		left := copying.Remaining()
		if done, err := copying.Step(copyStep); done || err != nil {
			return plainCode(err)
		}
		select {
		case <-closing:
			return keystore.ErrClosed
		default:
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if copying.Remaining() == left { // somebody has a lock that is in the way
			<-pause.C
		}
	}
}

// plainCode gives an error of a step the form that those of statements have: the driver takes the extended code for the
// plain one.
func plainCode(err error) error {
	var se sqlite3.Error
	if !errors.As(err, &se) {
		return err
	}
	return sqlite3.Error{Code: se.Code & 0xff, ExtendedCode: sqlite3.ErrNoExtended(se.Code)}
}

// verifyFile verifies a store that nobody has open.
func verifyFile(ctx context.Context, path string) (err error) {
	db := looking(path).open(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	return verifyAll(ctx, db)
}
