package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrations holds the steps in order: migrations[n] brings a file from user_version n to n+1. A released step is
// never changed, since there are files that have run it.
var migrations = loadMigrations()

// schemaVersion is the user_version that this program reads and writes: the least version of the program that can read the
// store. A step that changes no table is due when a record gets a field, or a value of one, that earlier programs do not
// know: they must refuse to open the store, and not fail on one of its records.
var schemaVersion = int64(len(migrations))

func loadMigrations() []string {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql") // sorted
	if err != nil {
		panic(err) // the pattern is a constant
	}
	var steps []string
	for i, name := range names {
		text, err := migrationFiles.ReadFile(name)
		var number int
		if _, scanErr := fmt.Sscanf(name, "migrations/%04d_", &number); err != nil || scanErr != nil || number != i+1 {
			panic("migrations are not numbered 0001, 0002 and so on: " + name)
		}
		steps = append(steps, string(text))
	}
	return steps
}

// Version is the number of the newest format that this program reads and the one that it writes. Stores of earlier formats are
// migrated when they are opened; those of later ones are refused.
func Version() int { return int(schemaVersion) }

// migrate brings the file to version want, one transaction for each step. It returns the version it found.
func migrate(ctx context.Context, conn *sql.Conn, want int64) (found int64, err error) {
	found, err = queryInt(ctx, conn, "PRAGMA user_version")
	if err != nil {
		return 0, err
	}
	if found > want {
		return found, newerError(found)
	}
	for from := found; from < want; from++ {
		if err := migrateStep(ctx, conn, from); err != nil {
			return found, fmt.Errorf("migrate from version %d: %w", from, err)
		}
	}
	return found, nil
}

// migrateStep brings the file from the given version to the next. Openers race for the step: who comes second finds
// it done when it gets the write lock.
func migrateStep(ctx context.Context, conn *sql.Conn, from int64) error {
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() { _, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") }() // an error after COMMIT: nothing to roll back
	now, err := queryInt(ctx, conn, "PRAGMA user_version")
	if err != nil || now > from {
		return err
	}
	if _, err := conn.ExecContext(ctx, migrations[from]); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", from+1)); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "COMMIT")
	return err
}
