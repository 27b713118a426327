package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/pkcs11kms/bridge/keystore"
)

// writer is the one connection that writes. Who holds the turn owns the connection and its statements.
type writer struct {
	turn chan struct{} // of capacity 1: full while somebody has the turn
	db   *sql.DB
	conn *sql.Conn

	version, next, put, remove, unindex, index *sql.Stmt
}

// busyLimit is how long a Commit waits for its turn in this process, and how long then for the write lock, when its context
// sets no earlier end. Commits take milliseconds, so whoever holds the lock that long is stopped or hung.
const busyLimit = 5 * time.Second

func (w *writer) open(ctx context.Context, s *Store) (err error) {
	w.turn = make(chan struct{}, 1)
	w.db = writing(s.path, s.inPlace).open(1)
	if w.conn, err = w.db.Conn(ctx); err != nil {
		return err
	}
	if err := confirm(ctx, s.path, w.conn); err != nil {
		return err
	}
	if err := s.current(w.conn); err != nil {
		return err
	}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	// SQLite waits for the write lock without an eye on contexts. So it waits shortly, and begin waits on.
	_, err = w.conn.ExecContext(ctx, "PRAGMA busy_timeout = 10")
	return err
}

func (w *writer) prepare(ctx context.Context) error {
	const ref = "kind = ? AND region = ? AND account = ? AND id = ?"
	return prepareAll(ctx, w.conn, map[**sql.Stmt]string{
		&w.version: "SELECT version FROM record WHERE " + ref,
		&w.next:    "UPDATE store SET sequence = sequence + 1 RETURNING sequence",
		&w.put:     "INSERT OR REPLACE INTO record (kind, region, account, id, version, value, seal) VALUES (?, ?, ?, ?, ?, ?, ?)",
		&w.remove:  "DELETE FROM record WHERE " + ref,
		&w.unindex: "DELETE FROM entry WHERE " + ref,
		&w.index:   "INSERT INTO entry (name, kind, region, account, id, value, guard) VALUES (?, ?, ?, ?, ?, ?, ?)",
	})
}

// preparer is a pool or a connection.
type preparer interface {
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

func prepareAll(ctx context.Context, p preparer, queries map[**sql.Stmt]string) (err error) {
	for stmt, query := range queries {
		if *stmt, err = p.PrepareContext(ctx, query); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) close() error {
	return closeAll(w.db, w.conn, w.version, w.next, w.put, w.remove, w.unindex, w.index)
}

// closeAll closes a connection with its statements, of which any may not have been made: they are nil.
func closeAll(db *sql.DB, conn *sql.Conn, statements ...*sql.Stmt) error {
	var errs []error
	for _, stmt := range statements {
		if stmt != nil {
			errs = append(errs, stmt.Close())
		}
	}
	if conn != nil {
		errs = append(errs, conn.Close())
	}
	if db != nil {
		errs = append(errs, db.Close())
	}
	return errors.Join(errs...)
}

// Commit implements keystore.Store.
func (s *Store) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	if err := keystore.CheckChanges(changes); err != nil {
		return 0, err
	}
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	if s.readOnly != nil {
		return 0, s.readOnly
	}
	limit := time.NewTimer(busyLimit)
	defer limit.Stop()
	if err := take(ctx, s.writer.turn, s.closing, limit.C); err != nil {
		return 0, s.failTurn(ctx, err)
	}
	defer func() { <-s.writer.turn }()
	version, err := s.transact(ctx, changes)
	switch {
	case errors.Is(err, keystore.ErrConflict), errors.Is(err, keystore.ErrExists), errors.Is(err, keystore.ErrClosed):
		return 0, err
	case err != nil:
		return 0, fail(ctx, "commit to", s.path, err)
	}
	return version, nil
}

func (s *Store) failTurn(ctx context.Context, err error) error {
	if errors.Is(err, keystore.ErrBusy) {
		return fail(ctx, "commit to", s.path, err)
	}
	return fmt.Errorf("commit to store: %w", err)
}

// take waits for the turn that a channel of capacity 1 stands for, until limit, unless that is nil.
func take(ctx context.Context, turn chan<- struct{}, closing <-chan struct{}, limit <-chan time.Time) error {
	select {
	case turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		if limit != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("%w: %w", errTurn, ctx.Err())
		}
		return ctx.Err()
	case <-closing:
		return keystore.ErrClosed
	case <-limit:
		return errTurn
	}
}

// transact runs one transaction. The statements take microseconds and are not interrupted half-way: the context
// counts while waiting for the lock, and once more before the commit.
func (s *Store) transact(ctx context.Context, changes []keystore.Change) (version uint64, err error) {
	if err := s.begin(ctx); err != nil {
		return 0, err
	}
	done := false
	defer func() {
		if !done {
			// SQLite has rolled back by itself after some errors, and then says so.
			_, _ = s.writer.conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}()
	if err := s.current(s.writer.conn); err != nil {
		return 0, err
	}
	if version, err = s.writer.apply(changes); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if _, err := s.writer.conn.ExecContext(context.WithoutCancel(ctx), "COMMIT"); err != nil {
		return 0, err
	}
	done = true
	// A commit into a file that nobody else sees any more must not be acknowledged.
	return version, s.inPlace()
}

// begin takes the write lock, which serialises the writers of all processes.
func (s *Store) begin(ctx context.Context) error {
	limit := time.NewTimer(busyLimit)
	defer limit.Stop()
	for {
		_, err := s.writer.conn.ExecContext(context.WithoutCancel(ctx), "BEGIN IMMEDIATE")
		var se sqlite3.Error
		if !errors.As(err, &se) || se.Code != sqlite3.ErrBusy {
			return err
		}
		// A random pause, so that waiting processes do not keep step with each other.
		pause := time.NewTimer(rand.N(time.Millisecond))
		select {
		case <-pause.C:
		case <-limit.C:
			return s.busyError()
		case <-s.closing:
			return keystore.ErrClosed
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%w: %w", s.busyError(), ctx.Err())
			}
			return ctx.Err()
		}
	}
}

// current makes sure that no newer program has migrated the store since it was opened: what it holds now may mean
// what this program does not know.
func (s *Store) current(conn *sql.Conn) error {
	version, err := queryInt(context.Background(), conn, "PRAGMA user_version")
	if err == nil && version < schemaVersion {
		return s.end(olderError(s.path, version))
	}
	if err == nil && version > schemaVersion {
		return s.end(&Error{Op: "use", Path: s.path, Err: newerError(version), hint: hintNewer})
	}
	return err
}

// apply examines all conditions, then makes all changes. Old index entries go before new ones come, so that a value
// can move from one record of the batch to another.
func (w *writer) apply(changes []keystore.Change) (uint64, error) {
	for _, c := range changes {
		if err := w.expect(c); err != nil {
			return 0, err
		}
	}
	var version int64
	if err := w.next.QueryRow().Scan(&version); err != nil {
		return 0, err
	}
	for _, c := range changes {
		if err := w.clear(c); err != nil {
			return 0, err
		}
	}
	for _, c := range changes {
		if err := w.write(c, version); err != nil {
			return 0, err
		}
	}
	return uint64(version), nil
}

func (w *writer) expect(c keystore.Change) error {
	var version int64
	err := w.version.QueryRow(c.Ref.Kind, c.Ref.Region, c.Ref.Account, c.Ref.ID).Scan(&version)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if uint64(version) != c.Expect {
		return fmt.Errorf("commit %s %q: %w", c.Ref.Kind, c.Ref.ID, keystore.ErrConflict)
	}
	return nil
}

func (w *writer) clear(c keystore.Change) error {
	if c.Op == keystore.Check {
		return nil
	}
	_, err := w.unindex.Exec(c.Ref.Kind, c.Ref.Region, c.Ref.Account, c.Ref.ID)
	if err == nil && c.Op == keystore.Delete {
		_, err = w.remove.Exec(c.Ref.Kind, c.Ref.Region, c.Ref.Account, c.Ref.ID)
	}
	return err
}

func (w *writer) write(c keystore.Change, version int64) error {
	if c.Op != keystore.Put {
		return nil
	}
	r := c.Ref
	if _, err := w.put.Exec(r.Kind, r.Region, r.Account, r.ID, version, notNull(c.Value), notNull(c.Seal)); err != nil {
		return err
	}
	for _, e := range c.Index {
		guard := sql.NullString{String: e.Value, Valid: e.Index.Unique()}
		_, err := w.index.Exec(e.Index, r.Kind, r.Region, r.Account, r.ID, e.Value, guard)
		var se sqlite3.Error
		if errors.As(err, &se) && se.ExtendedCode == sqlite3.ErrConstraintUnique {
			return fmt.Errorf("commit %s %q: index %q: %w", r.Kind, r.ID, e.Index, keystore.ErrExists)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// notNull makes sure that no bytes are stored as no bytes, not as NULL.
func notNull(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
