package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/mattn/go-sqlite3"
)

// connector opens connections to one file, all with the same settings. It is safe for concurrent use.
type connector struct {
	uri     string
	pragmas []string
	// same fails when the file at the path is no longer the one that was opened first, lest a pool that opens a
	// connection of its own accord mix two stores. Nil when there is no such file yet.
	same func() error
}

// open makes a pool of at most size connections; once open they stay open.
func (c *connector) open(size int) *sql.DB {
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db
}

// Connect makes one connection, for database/sql.
func (c *connector) Connect(context.Context) (driver.Conn, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	conn, err := c.Driver().Open(c.uri)
	if err != nil {
		return nil, err
	}
	// The second look is at what was opened, the first one saves opening a foreign file at all.
	if err := c.check(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func (c *connector) check() error {
	if c.same == nil {
		return nil
	}
	return c.same()
}

// Driver returns the SQLite driver with the settings that a URI cannot express, for database/sql.
func (c *connector) Driver() driver.Driver {
	return &sqlite3.SQLiteDriver{ConnectHook: func(conn *sqlite3.SQLiteConn) error {
		for _, pragma := range c.pragmas {
			if _, err := conn.Exec(pragma, nil); err != nil {
				return fmt.Errorf("%s: %w", pragma, err)
			}
		}
		return nil
	}}
}

// busyMillis is how long SQLite itself waits for the short locks of recovery and checkpoints.
const busyMillis = "5000"

// reading connects for reading; the connection refuses to write.
func reading(path string, same func() error) *connector {
	c := writing(path, same)
	c.pragmas = append(c.pragmas, "PRAGMA query_only = 1")
	return c
}

// writing connects for reading and writing, and never creates the file.
func writing(path string, same func() error) *connector {
	return &connector{
		uri:  fileURI(path, url.Values{"mode": {"rw"}, "_busy_timeout": {busyMillis}, "_synchronous": {"FULL"}}),
		same: same,
		pragmas: append(safetyPragmas[:len(safetyPragmas):len(safetyPragmas)],
			"PRAGMA fullfsync = 1", // on macOS fsync alone does not reach the disk
			"PRAGMA checkpoint_fullfsync = 1"),
	}
}

// safetyPragmas are for every connection.
var safetyPragmas = []string{
	"PRAGMA foreign_keys = 1",
	"PRAGMA trusted_schema = 0",  // functions in a schema that somebody prepared must not run
	"PRAGMA cell_size_check = 1", // find damage on reading a page rather than on the next write
}

// looking connects to a file of unknown origin: without locks, and without as much as looking at a journal, which
// any other way to open it might replay into the file.
//
// The file is read through SQLite even here, never with os.Open: closing a descriptor of a file drops all POSIX locks
// that the process holds on it, those of other connections included, and then another process may remove the
// write-ahead log under them. SQLite knows its own descriptors and defers their closing.
func looking(path string) *connector {
	return &connector{uri: fileURI(path, url.Values{"mode": {"ro"}, "immutable": {"1"}})}
}

func fileURI(path string, params url.Values) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs // the first part of a relative path would be the URI's authority
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: params.Encode()}).String()
}

// queryInt runs a query, such as a PRAGMA, that answers one number.
func queryInt(ctx context.Context, conn *sql.Conn, query string) (int64, error) {
	var n int64
	err := conn.QueryRowContext(ctx, query).Scan(&n)
	return n, err
}
