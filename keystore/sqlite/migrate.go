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

// Version is the number of the format that this program reads and writes. Stores of earlier formats must be brought to it by
// Migrate; those of later ones are refused.
func Version() int { return int(schemaVersion) }

// migrate runs the steps from one version to another, in the caller's transaction.
func migrate(ctx context.Context, conn *sql.Conn, from, to int64) error {
	for ; from < to; from++ {
		if _, err := conn.ExecContext(ctx, migrations[from]); err != nil {
			return fmt.Errorf("migrate from version %d: %w", from, err)
		}
	}
	_, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", to))
	return err
}
