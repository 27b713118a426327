package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
)

// A store is brought to the format of a newer program by Migrate alone, and by nobody who merely opens it: programs of before
// that use it at the same time would fail for good, and nobody should learn from a listing that there is no way back. Migrate
// works on a store that no instance has open, keeps a verified copy of it first, and does all in one transaction: whatever ends
// it, the store is the old one or the new one, and the copy is there before the new one is.

const opMigrate = "migrate"

// aloneLimit is how long Migrate waits for the instances of others to end: commands that do one thing take less.
const aloneLimit = 5 * time.Second

// Migrated says what Migrate did. From and To are equal where there was nothing to do.
type Migrated struct {
	From, To int    // the versions of the store's format
	Copy     string // the file that holds the store as it was before
}

// Migrate brings the store at path to the version of this program, if it is of an older one. The copy that it keeps stands
// beside the store; sqlite.Restore, or the older program, takes it. An error when an instance has the store open.
func Migrate(ctx context.Context, path string, o Options) (Migrated, error) {
	return upgrade(ctx, path, o, true)
}

// upgrade is Migrate, without a copy for what is one itself.
func upgrade(ctx context.Context, path string, o Options, keep bool) (done Migrated, err error) {
	s := newStore(path, o)
	if err := s.locate(ctx); err != nil {
		return done, fail(ctx, opMigrate, s.path, err)
	}
	defer func() { err = fail(ctx, opMigrate, s.path, err) }()
	done = Migrated{From: Version(), To: Version()}
	if s.header == schemaVersion {
		return done, nil
	}
	conn, shut, err := s.lookAgain(ctx)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, shut()) }()
	found, err := queryInt(ctx, conn, "PRAGMA user_version")
	if err != nil || found == schemaVersion {
		return done, err
	}
	if _, err := awaitAlone(ctx, s.locks, ""); err != nil {
		return done, err
	}
	return s.migrateAlone(ctx, conn, keep)
}

// lookAgain opens a connection to a store whose main file tells of an older version. What the journal holds may be newer.
func (s *Store) lookAgain(ctx context.Context) (conn *sql.Conn, shut func() error, err error) {
	db := writing(s.path, s.inPlace).open(1)
	if conn, err = db.Conn(ctx); err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	shut = func() error { return errors.Join(conn.Close(), db.Close()) }
	if err = confirm(ctx, s.path, conn); err != nil {
		return nil, nil, errors.Join(err, shut())
	}
	return conn, shut, nil
}

// checkVersion refuses a store of an older version, of which it changes nothing.
func (s *Store) checkVersion(ctx context.Context) (err error) {
	if s.header == schemaVersion {
		return nil
	}
	if !hasJournal(s.path) {
		return olderError(s.path, s.header)
	}
	conn, shut, err := s.lookAgain(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shut()) }()
	found, err := queryInt(ctx, conn, "PRAGMA user_version")
	if err == nil && found != schemaVersion {
		err = olderError(s.path, found)
	}
	return err
}

func olderError(path string, found int64) error {
	return &Error{Op: "open", Path: path, Err: fmt.Errorf("schema version %d is older than version %d of this program", found, schemaVersion),
		hint: "Stop what uses the store and run: pkcs11kms doctor --migrate\n" +
			"The server does the same when it starts. The older program cannot use the store then, so a copy is kept beside it.\n" +
			"Nothing was changed."}
}

// migrateAlone does it in one transaction, which keeps all others from writing.
func (s *Store) migrateAlone(ctx context.Context, conn *sql.Conn, keep bool) (done Migrated, err error) {
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return done, err
	}
	committed := false
	defer func() {
		if committed {
			return
		}
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") // SQLite may have done so by itself
		now, lookErr := queryInt(context.WithoutCancel(ctx), conn, "PRAGMA user_version")
		if done.Copy != "" && lookErr == nil && now == int64(done.From) {
			_ = os.Remove(done.Copy) // of a store that is as it was
		}
	}()
	found, err := queryInt(ctx, conn, "PRAGMA user_version")
	done = Migrated{From: int(found), To: Version()}
	if err != nil || found >= schemaVersion {
		return done, err // another process was faster
	}
	if running, err := alive(s.locks, ""); err != nil || running { // somebody came meanwhile, or did not go
		return done, errors.Join(err, inUseError(s.path, found))
	}
	if s.migrating != nil {
		if err := s.migrating(done.From, done.To); err != nil {
			return done, err
		}
	}
	if keep {
		if done.Copy, err = s.keepCopy(ctx, found); err != nil {
			return done, err
		}
	}
	if err := migrate(ctx, conn, found, schemaVersion); err != nil {
		return done, err
	}
	if _, err := conn.ExecContext(context.WithoutCancel(ctx), "COMMIT"); err != nil {
		return done, err
	}
	committed = true
	s.logger.Info("migrated the key store", "path", s.path, "from", done.From, "to", done.To, "copy", done.Copy)
	return done, s.inPlace()
}

// keepCopy copies the store by a connection of its own, while nobody writes to it.
func (s *Store) keepCopy(ctx context.Context, version int64) (path string, err error) {
	path = fmt.Sprintf("%s.format-%d-%s", s.path, version, time.Now().UTC().Format("20060102T150405.000Z"))
	err = s.writeCopy(ctx, path, func(draft string) error {
		return s.copyTo(ctx, draft, func(conn *sql.Conn) error {
			_, err := queryInt(ctx, conn, "PRAGMA user_version")
			return err
		})
	})
	if err != nil {
		return "", fmt.Errorf("keep a copy: %w", err)
	}
	return path, nil
}

// Alone implements keystore.Sole.
func (s *Store) Alone(ctx context.Context) error {
	alone, err := awaitAlone(ctx, s.locks, s.Instance())
	if err == nil && !alone {
		err = &Error{Op: "change all of", Path: s.path, Err: errors.New("another process has the store open"), hint: fmt.Sprintf(
			"Stop that process first (fuser -v '%s' names it; a service: systemctl stop pkcs11kms). Nothing was changed.", s.path)}
	}
	return err
}

// awaitAlone waits for a while until no instance is alive but the one that asks. Who opens the store after it is found by migrateAlone.
func awaitAlone(ctx context.Context, locks, but string) (alone bool, err error) {
	limit, look := time.NewTimer(aloneLimit), time.NewTicker(lookPause)
	defer limit.Stop()
	defer look.Stop()
	for {
		if running, err := alive(locks, but); err != nil || !running {
			return err == nil, err
		}
		select {
		case <-look.C:
		case <-limit.C:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

func inUseError(path string, found int64) error {
	return &Error{Op: opMigrate, Path: path,
		Err: fmt.Errorf("another process has the store open: it cannot be brought from schema version %d to %d now", found, schemaVersion),
		hint: fmt.Sprintf("Stop that process first (fuser -v '%s' names it; a service: systemctl stop pkcs11kms), or use the older\n"+
			"version of the program. Nothing was changed.", path)}
}

// alive tells whether any instance is, but for one.
func alive(locks, but string) (bool, error) {
	files, err := os.ReadDir(locks)
	if err != nil {
		return false, err
	}
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".lock") || file.Name() == but+".lock" {
			continue
		}
		f, err := lockFile(filepath.Join(locks, file.Name()))
		switch {
		case err == nil:
			_ = f.Close() // a dead one's; what it left is for the janitor
		case errors.Is(err, keystore.ErrAlive):
			return true, nil
		case !errors.Is(err, keystore.ErrUndecided): // else it has gone meanwhile
			return false, err
		}
	}
	return false, nil
}
