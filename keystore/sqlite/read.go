package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/keystore"
)

// readStatements are prepared on each connection of the pool once, by database/sql.
//
// Some parameters stand in expressions that do nothing: SQLite notes when a plan took the value of a bare parameter
// into account, and then plans the statement anew at every use, which takes longer than running it.
type readStatements struct {
	get, list, all, withValue, withIndex, byValue *sql.Stmt
}

const (
	columns  = "SELECT r.kind, r.region, r.account, r.id, r.version, r.value, r.seal FROM "
	page     = "LIMIT 0 + ?"
	allQuery = columns + "record AS r WHERE (kind, region, account, id) > (?, ?, ?, ?) ORDER BY kind, region, account, id " + page
)

func (r *readStatements) queries() map[**sql.Stmt]string {
	const (
		// CROSS JOIN keeps the order of the tables: the index entries lead, a page reads a page's worth of records.
		indexed = "entry AS e CROSS JOIN record AS r USING (kind, region, account, id) WHERE e.name = '' || ? "
		after   = "AND (e.kind, e.region, e.account, e.id) > (?, ?, ?, ?) ORDER BY e.kind, e.region, e.account, e.id "
	)
	return map[**sql.Stmt]string{
		&r.get: columns + "record AS r WHERE kind = ? AND region = ? AND account = ? AND id = ?",
		&r.list: columns + "record AS r WHERE kind = '' || ? AND region = '' || ? AND account = '' || ? AND id > ? " +
			"ORDER BY id " + page,
		&r.all:       allQuery,
		&r.withValue: columns + indexed + "AND e.value = '' || ? " + after + page,
		&r.withIndex: columns + indexed + after + page,
		&r.byValue:   columns + indexed + "AND e.value > '' || ? AND e.value < '' || ? ORDER BY e.value " + page,
	}
}

// openReaders makes all connections at once: later the path may name another file.
func (s *Store) openReaders(ctx context.Context) error {
	s.readers = s.reading().open(readerCount)
	var conns []*sql.Conn
	defer func() {
		for _, conn := range conns {
			_ = conn.Close() // goes back to the pool
		}
	}()
	for range readerCount {
		conn, err := s.readers.Conn(ctx)
		if err != nil {
			return err
		}
		conns = append(conns, conn)
	}
	for _, conn := range conns[1:] {
		_ = conn.Close()
	}
	conns = conns[:1]
	return prepareAll(ctx, s.readers, s.read.queries())
}

// Get implements keystore.Store.
func (s *Store) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	if err := s.enter(ctx); err != nil {
		return keystore.Record{}, err
	}
	defer s.leave()
	rec, err := scan(s.read.get.QueryRowContext(ctx, ref.Kind, ref.Region, ref.Account, ref.ID))
	if errors.Is(err, sql.ErrNoRows) {
		return keystore.Record{}, fmt.Errorf("get %s %q: %w", ref.Kind, ref.ID, keystore.ErrNotFound)
	}
	return rec, fail(ctx, "read", s.path, err)
}

// List implements keystore.Store.
func (s *Store) List(ctx context.Context, kind keystore.Kind, region, account, after string, limit int) ([]keystore.Record, error) {
	if err := keystore.CheckPage(limit); err != nil {
		return nil, err
	}
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	recs, err := collect(s.read.list.QueryContext(ctx, kind, region, account, after, limit))
	return recs, fail(ctx, "read", s.path, err)
}

// All implements keystore.Store.
func (s *Store) All(ctx context.Context, after keystore.Ref, limit int) ([]keystore.Record, error) {
	if err := keystore.CheckPage(limit); err != nil {
		return nil, err
	}
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	recs, err := collect(s.read.all.QueryContext(ctx, after.Kind, after.Region, after.Account, after.ID, limit))
	return recs, fail(ctx, "read", s.path, err)
}

// Lookup implements keystore.Store.
func (s *Store) Lookup(ctx context.Context, index keystore.Index, value string, after keystore.Ref, limit int) ([]keystore.Record, error) {
	if err := keystore.CheckPage(limit); err != nil {
		return nil, err
	}
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	recs, err := s.lookup(ctx, index, value, after, limit)
	return recs, fail(ctx, "read", s.path, err)
}

func (s *Store) lookup(ctx context.Context, index keystore.Index, value string, a keystore.Ref, limit int) ([]keystore.Record, error) {
	if value == "" {
		return collect(s.read.withIndex.QueryContext(ctx, index, a.Kind, a.Region, a.Account, a.ID, limit))
	}
	return collect(s.read.withValue.QueryContext(ctx, index, value, a.Kind, a.Region, a.Account, a.ID, limit))
}

// Range implements keystore.Store.
func (s *Store) Range(ctx context.Context, index keystore.Index, prefix, after string, limit int) ([]keystore.Record, error) {
	if err := keystore.CheckRange(index, limit); err != nil {
		return nil, err
	}
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	// No byte of a text in UTF-8 is 0xff: what begins with the prefix is less than the prefix with such a byte.
	recs, err := collect(s.read.byValue.QueryContext(ctx, index, max(prefix, after), prefix+"\xff", limit))
	return recs, fail(ctx, "read", s.path, err)
}

func collect(rows *sql.Rows, err error) (recs []keystore.Record, _ error) {
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		rec, err := scan(rows)
		if err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		recs = append(recs, rec)
	}
	// A page that a failure cut short must not pass for the last one.
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return recs, rows.Close()
}

// scan reads a record from a row or from the only row of a query.
func scan(row interface{ Scan(dest ...any) error }) (keystore.Record, error) {
	var rec keystore.Record
	var version int64
	r := &rec.Ref
	if err := row.Scan(&r.Kind, &r.Region, &r.Account, &r.ID, &version, &rec.Value, &rec.Seal); err != nil {
		return keystore.Record{}, err
	}
	rec.Version = uint64(version)
	return rec, nil
}
