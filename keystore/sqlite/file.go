package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/pkcs11kms/bridge/keystore"
)

// pageSize is that of every store: SQLite's default, set by Create lest another build have another one.
const pageSize = 4096

// checkFile looks at what stat tells of the file.
func checkFile(path string, info os.FileInfo) error {
	switch {
	case info.IsDir():
		return &Error{Op: "open", Path: path, Err: errors.New("is a directory"),
			hint: "Name the store's file, kms.db in the state directory."}
	case !info.Mode().IsRegular():
		return &Error{Op: "open", Path: path, Err: errNotAStore, hint: hintForeign}
	}
	if err := checkPrivate(path, info, 0o600); err != nil {
		return err
	}
	switch {
	case info.Size() == 0:
		return &Error{Op: "open", Path: path, Err: fmt.Errorf("%w: it is empty", errDamaged), hint: hintDamaged}
	case info.Size() > pageSize && info.Size()%pageSize != 0 && !hasJournal(path):
		// SQLite would take the rest of the page for zeros. A journal may still hold the page whole.
		return &Error{Op: "open", Path: path, Err: fmt.Errorf("%w: its last page is cut off", errDamaged), hint: hintDamaged}
	}
	return nil
}

// checkPrivate refuses what other users may use, or what belongs to another user: files that this process makes
// beside it would lock the owner out.
func checkPrivate(path string, info os.FileInfo, want fs.FileMode) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return &Error{Op: "open", Path: path, Err: fmt.Errorf("mode %#o lets other users in", mode),
			hint: fmt.Sprintf("Take their access away with: chmod %o '%s'", want, path)}
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(stat.Uid) != os.Geteuid() {
		return &Error{Op: "open", Path: path,
			Err:  fmt.Errorf("belongs to user %d, this process runs as user %d", stat.Uid, os.Geteuid()),
			hint: fmt.Sprintf("Run the program as the owner, for example with: sudo -u '#%d'", stat.Uid)}
	}
	return nil
}

const hintForeign = "The path names something else than a key store of pkcs11kms: check it. Nothing was changed."

// checkHeader reads the header without touching anything, so that a foreign or newer file is refused untouched.
func checkHeader(ctx context.Context, path string) (version int64, err error) {
	id, version, err := readHeader(ctx, path)
	var se sqlite3.Error
	switch {
	case errors.As(err, &se) && se.Code == sqlite3.ErrNotADB:
		return 0, &Error{Op: "open", Path: path, Err: errNotAStore, hint: hintForeign}
	case errors.As(err, &se) && se.Code == sqlite3.ErrCorrupt && hasJournal(path):
		return 0, nil // its pages may be in the journal: who opens it with locks will see
	case err != nil:
		return 0, err
	}
	return version, checkMarks(path, id, version)
}

// checkMarks refuses what is no store, or one that this program cannot read.
func checkMarks(path string, id, version int64) error {
	switch {
	case id != applicationID:
		return &Error{Op: "open", Path: path, Err: fmt.Errorf("%w: application id %#x", errNotAStore, uint32(id)),
			hint: hintForeign}
	case version > schemaVersion:
		return &Error{Op: "open", Path: path, Err: newerError(version), hint: hintNewer}
	}
	return nil
}

// The header says how long the file is, and a process that moves its journal into the file writes the header before the
// last page. So a file that seems cut off is looked at again before it counts as damaged.
const (
	looks     = 20
	lookPause = 10 * time.Millisecond
)

func readHeader(ctx context.Context, path string) (id, version int64, err error) {
	pause := time.NewTicker(lookPause)
	defer pause.Stop()
	for range looks {
		id, version, err = lookAtHeader(ctx, path)
		var se sqlite3.Error
		if !errors.As(err, &se) || se.Code != sqlite3.ErrCorrupt || hasJournal(path) {
			break
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
	return id, version, err
}

func lookAtHeader(ctx context.Context, path string) (id, version int64, err error) {
	db := looking(path).open(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if id, err = queryInt(ctx, conn, "PRAGMA application_id"); err != nil {
		return 0, 0, err
	}
	version, err = queryInt(ctx, conn, "PRAGMA user_version")
	return id, version, err
}

func hasJournal(path string) bool {
	info, err := os.Stat(path + "-wal")
	return err == nil && info.Size() > 0
}

// confirm looks again, now with locks and with what the journal holds.
func confirm(ctx context.Context, path string, conn *sql.Conn) error {
	id, err := queryInt(ctx, conn, "PRAGMA application_id")
	if err != nil {
		return err
	}
	version, err := queryInt(ctx, conn, "PRAGMA user_version")
	if err == nil {
		err = checkMarks(path, id, version)
	}
	if err != nil {
		return err
	}
	var mode string
	// Whoever edits a store by hand may have left it in another mode, in which readers would see writers' locks.
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return &Error{Op: "open", Path: path, Err: fmt.Errorf("the file system allows no write-ahead log (mode is %q)", mode),
			hint: "Keep the state directory on a local file system."}
	}
	return nil
}

// checkpoint brings everything from the journal into the main file.
func checkpoint(ctx context.Context, conn *sql.Conn) error {
	var busy, frames, moved int
	if err := conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved); err != nil {
		return err
	}
	if busy != 0 {
		return fmt.Errorf("%w: other connections use the file", keystore.ErrBusy)
	}
	return nil
}
