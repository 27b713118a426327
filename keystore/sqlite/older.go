package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
)

// checkMigration refuses to migrate a store that a running process of an earlier version has open: that process would end
// with its next call, a server in the middle of its work.
func (s *Store) checkMigration(ctx context.Context) error {
	found, err := queryInt(ctx, s.writer.conn, "PRAGMA user_version")
	if err != nil || found >= schemaVersion || !olderRuns(s.locks) {
		return err
	}
	return &Error{Op: "open", Path: s.path,
		Err: fmt.Errorf("a running process of an older version of the program uses schema version %d, this one would make it %d", found, schemaVersion),
		hint: fmt.Sprintf("Stop that process first (fuser -v '%s' names it; a service: systemctl stop pkcs11kms), or use the older version.\n"+
			"Nothing was changed.", s.path)}
}

// olderRuns tells whether an instance of a program with an earlier format is alive.
func olderRuns(locks string) bool {
	files, err := os.ReadDir(locks)
	if err != nil {
		return false
	}
	for _, file := range files {
		id, isLock := strings.CutSuffix(file.Name(), ".lock")
		if !isLock || !validInstance(id) {
			continue
		}
		path := filepath.Join(locks, file.Name())
		f, err := lockFile(path)
		if err == nil {
			_ = f.Close() // a dead one's; what it left is for the janitor
			continue
		}
		if errors.Is(err, keystore.ErrAlive) && formatOf(path) < schemaVersion {
			return true
		}
	}
	return false
}

// formatOf reads from an instance's lock file which format its program writes. The first wrote nothing into it.
func formatOf(path string) int64 {
	f, err := os.Open(path)
	if err != nil {
		return schemaVersion // it has ended
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 20))
	if err != nil || len(text) == 0 {
		return 1
	}
	version, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 1
	}
	return version
}
