package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/mattn/go-sqlite3"

	"github.com/pkcs11kms/bridge/keystore"
)

// Verify implements keystore.Store: SQLite's own check of every page and index, then each record with its entries.
// It sees one moment of the store, and holds nobody up.
func (s *Store) Verify(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	return fail(ctx, "verify", s.path, verifyAll(ctx, s.readers))
}

func verifyAll(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	for _, check := range []func(context.Context, *sql.Tx) error{checkPages, checkReferences, checkRecords, checkChanges} {
		if err := check(ctx, tx); err != nil {
			return asDamage(err)
		}
	}
	return nil
}

// asDamage marks what SQLite itself calls damage as such.
func asDamage(err error) error {
	var se sqlite3.Error
	if errors.As(err, &se) && se.Code == sqlite3.ErrCorrupt {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return err
}

func checkPages(ctx context.Context, tx *sql.Tx) error {
	var finding string
	if err := tx.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&finding); err != nil {
		return err
	}
	if finding != "ok" {
		return fmt.Errorf("%w: %s", errDamaged, strings.ReplaceAll(finding, "\n", " "))
	}
	return nil
}

func checkReferences(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, "PRAGMA foreign_key_check")
	if err != nil {
		return err
	}
	found := rows.Next()
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	if found {
		return fmt.Errorf("%w: index entry without a record", errDamaged)
	}
	return nil
}

func checkRecords(ctx context.Context, tx *sql.Tx) error {
	var sequence int64
	if err := tx.QueryRowContext(ctx, "SELECT sequence FROM store").Scan(&sequence); err != nil {
		return err
	}
	var after keystore.Ref
	for {
		recs, err := collect(tx.QueryContext(ctx,
			"SELECT kind, region, account, id, version, value, seal FROM record "+
				"WHERE (kind, region, account, id) > (?, ?, ?, ?) ORDER BY kind, region, account, id LIMIT 100",
			after.Kind, after.Region, after.Account, after.ID))
		if err != nil || len(recs) == 0 {
			return err
		}
		for _, rec := range recs {
			if err := checkRecord(ctx, tx, rec, uint64(sequence)); err != nil {
				return err
			}
		}
		after = recs[len(recs)-1].Ref
	}
}

// checkChanges is for a store that has the table. One of an earlier version is verified when it is copied.
func checkChanges(ctx context.Context, tx *sql.Tx) error {
	var there, filled bool
	err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'change')").Scan(&there)
	if err != nil || !there {
		return err
	}
	err = tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM change)").Scan(&filled)
	if err == nil && !filled {
		err = errNoChanges
	}
	return err
}

func checkRecord(ctx context.Context, tx *sql.Tx, rec keystore.Record, sequence uint64) error {
	if rec.Version > sequence {
		return fmt.Errorf("%w: record %q is newer than the store", errDamaged, rec.Ref.ID)
	}
	entries, err := entriesOf(ctx, tx, rec.Ref)
	if err != nil {
		return err
	}
	if err := keystore.CheckRecord(rec, entries); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil
}

func entriesOf(ctx context.Context, tx *sql.Tx, r keystore.Ref) (entries []keystore.Entry, err error) {
	rows, err := tx.QueryContext(ctx,
		"SELECT name, value, guard IS NOT NULL FROM entry WHERE kind = ? AND region = ? AND account = ? AND id = ?",
		r.Kind, r.Region, r.Account, r.ID)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var e keystore.Entry
		var guarded bool
		if err := rows.Scan(&e.Index, &e.Value, &guarded); err != nil {
			return nil, err
		}
		if guarded != e.Index.Unique() {
			return nil, fmt.Errorf("%w: index entry of %q is not guarded as it should be", errDamaged, r.ID)
		}
		entries = append(entries, e)
	}
	return entries, rows.Err()
}
