package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// watch is the connection of Watermark. It never commits, since SQLite's data_version tells of the commits of all
// connections but its own, and it is never replaced by another, since each has numbers of its own. Who holds the turn
// owns the fields.
type watch struct {
	turn chan struct{}
	db   *sql.DB
	conn *sql.Conn
	stmt *sql.Stmt
	last int64
}

func (w *watch) open(ctx context.Context, s *Store) (err error) {
	w.turn = make(chan struct{}, 1)
	w.db = s.reading().open(1)
	if w.conn, err = w.db.Conn(ctx); err != nil {
		return err
	}
	w.stmt, err = w.conn.PrepareContext(ctx, "PRAGMA data_version")
	return err
}

func (w *watch) close() error {
	var errs []error
	if w.stmt != nil {
		errs = append(errs, w.stmt.Close())
	}
	if w.conn != nil {
		errs = append(errs, w.conn.Close())
	}
	if w.db != nil {
		errs = append(errs, w.db.Close())
	}
	return errors.Join(errs...)
}

// Watermark implements keystore.Store. It also notices, once, that a newer program has migrated the store: then it and
// every other call fail for good.
func (s *Store) Watermark(ctx context.Context) (uint64, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	if err := take(ctx, s.watch.turn, s.closing, nil); err != nil {
		return 0, fmt.Errorf("watch store: %w", err)
	}
	defer func() { <-s.watch.turn }()
	mark, err := s.mark()
	if err != nil {
		return 0, fail(ctx, "watch", s.path, err)
	}
	return uint64(mark), nil
}

func (s *Store) mark() (int64, error) {
	if err := s.inPlace(); err != nil {
		return 0, err
	}
	var mark int64
	if err := s.watch.stmt.QueryRow().Scan(&mark); err != nil {
		return 0, err
	}
	if mark != s.watch.last {
		if err := s.current(s.watch.conn); err != nil {
			return 0, err
		}
		s.watch.last = mark
	}
	return mark, nil
}
