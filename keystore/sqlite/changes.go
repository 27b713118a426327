package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
)

// The table of changes names the records that were put or deleted last, in order. Triggers fill it, in the transaction of the
// change, and keep it short: see migrations/0003_changes.sql. A mark is the number and the random stamp of a row. A file that has
// that very row has been through that moment, and the rows after it are all that has changed since. Of a mark that a file does not
// have, or not any more, it can only say that all may have changed.

// watch is the connection of ChangedSince, which waits for no other. Who holds the turn owns the fields.
type watch struct {
	turn chan struct{}
	db   *sql.DB
	conn *sql.Conn

	since, newest *sql.Stmt
}

func (w *watch) open(ctx context.Context, s *Store) (err error) {
	w.turn = make(chan struct{}, 1)
	w.db = s.reading().open(1)
	w.conn, err = w.db.Conn(ctx)
	return err
}

// prepare is for a store that is of this version: others have no such table.
func (w *watch) prepare(ctx context.Context) error {
	const mark = "SELECT number || '-' || lower(hex(stamp))"
	return prepareAll(ctx, w.conn, map[**sql.Stmt]string{
		&w.since:  mark + ", kind, region, account, id FROM change WHERE number >= CAST(? AS INTEGER) ORDER BY number",
		&w.newest: mark + " FROM change ORDER BY number DESC LIMIT 1",
	})
}

func (w *watch) close() error { return closeAll(w.db, w.conn, w.since, w.newest) }

// ChangedSince implements keystore.Store. It also notices, once, that a newer program has migrated the store: then it and
// every other call fail for good.
func (s *Store) ChangedSince(ctx context.Context, since keystore.Mark) (keystore.Changed, error) {
	if err := s.enter(ctx); err != nil {
		return keystore.Changed{}, err
	}
	defer s.leave()
	if err := take(ctx, s.watch.turn, s.closing, nil); err != nil {
		return keystore.Changed{}, fmt.Errorf("watch store: %w", err)
	}
	defer func() { <-s.watch.turn }()
	changed, err := s.changedSince(since)
	if err != nil {
		return keystore.Changed{}, fail(ctx, "watch", s.path, err)
	}
	return changed, nil
}

func (s *Store) changedSince(since keystore.Mark) (keystore.Changed, error) {
	if err := s.inPlace(); err != nil {
		return keystore.Changed{}, err
	}
	changed, ok, err := s.watch.read(since)
	if err == nil && !ok {
		changed, err = s.watch.all()
	}
	if err != nil {
		return keystore.Changed{}, err
	}
	// A store that is of this version now was so when it was read: versions only grow.
	return changed, s.current(s.watch.conn)
}

// read reads the rows from that of the mark on; ok tells whether that is there. One statement sees one moment, so its last row is the
// mark of all that it tells.
func (w *watch) read(since keystore.Mark) (changed keystore.Changed, ok bool, err error) {
	number, _, _ := strings.Cut(string(since), "-")
	if number == "" {
		return changed, false, nil
	}
	rows, err := w.since.Query(number)
	if err != nil {
		return changed, false, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var ref keystore.Ref
		if err := rows.Scan(&changed.Now, &ref.Kind, &ref.Region, &ref.Account, &ref.ID); err != nil {
			return changed, false, err
		}
		if !ok && changed.Now != since {
			return changed, false, nil
		}
		if ok {
			changed.Refs = append(changed.Refs, ref)
		}
		ok = true
	}
	return changed, ok, rows.Err()
}

// all answers with the newest row as the mark.
func (w *watch) all() (keystore.Changed, error) {
	changed := keystore.Changed{All: true}
	err := w.newest.QueryRow().Scan(&changed.Now)
	if errors.Is(err, sql.ErrNoRows) {
		err = errNoChanges
	}
	return changed, err
}

var errNoChanges = fmt.Errorf("%w: its table of changes is empty", errDamaged)
