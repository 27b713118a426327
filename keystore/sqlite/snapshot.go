package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/pkcs11kms/bridge/keystore"
)

var _ keystore.Snapshots = (*Store)(nil)

// Snapshot implements keystore.Snapshots. Commits do not wait for it; what they write stays in the journal meanwhile.
func (s *Store) Snapshot(ctx context.Context, visit func([]keystore.Record) error) (version uint64, err error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	err = s.inMoment(ctx, func(conn *sql.Conn) error {
		if err := s.current(conn); err != nil {
			return err
		}
		sequence, err := queryInt(ctx, conn, "SELECT sequence FROM store")
		if err != nil {
			return err
		}
		version = uint64(sequence)
		return s.visitAll(ctx, conn, visit)
	})
	var visiting *visitError
	if errors.As(err, &visiting) {
		return 0, visiting.error
	}
	return version, fail(ctx, "read", s.path, err)
}

// visitError is what a visitor of records has returned, which is no failure of the store.
type visitError struct{ error }

func (s *Store) visitAll(ctx context.Context, conn *sql.Conn, visit func([]keystore.Record) error) error {
	all, err := conn.PrepareContext(ctx, allQuery)
	if err != nil {
		return err
	}
	defer all.Close()
	var after keystore.Ref
	for {
		select {
		case <-s.closing:
			return keystore.ErrClosed
		default:
		}
		recs, err := collect(all.QueryContext(ctx, after.Kind, after.Region, after.Account, after.ID, keystore.MaxPage))
		if err != nil {
			return err
		}
		if len(recs) > 0 {
			after = recs[len(recs)-1].Ref
			if err := visit(recs); err != nil {
				return &visitError{err}
			}
		}
		if len(recs) < keystore.MaxPage {
			return nil
		}
	}
}

// inMoment reads on a connection of its own, which sees one moment of the store from its first read on.
func (s *Store) inMoment(ctx context.Context, read func(*sql.Conn) error) (err error) {
	db := s.reading().open(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	defer func() { _, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") }() // nothing was written
	return read(conn)
}
