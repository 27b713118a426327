package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
)

// On a file system that is mounted read-only the store can be read, and every Commit is an error. No instance can be made
// there, and none is needed: an instance is who works on records.
//
// SQLite reads the write-ahead log of a process that has the store open elsewhere (the same directory mounted read-write)
// through its "-shm" file. When nobody had it open there is neither, SQLite cannot make them, and the main file is read by
// itself; then the store ends for this process as soon as there is a journal, since the file may change under it.

// startReadOnly is start without the lock and the writer.
func (s *Store) startReadOnly(ctx context.Context, cause error) error {
	s.readOnly = fail(ctx, "commit to", s.path, cause)
	s.instance = randomHex() + randomHex()[:identityDigits]
	_, err := os.Stat(s.path + "-wal")
	s.frozen = errors.Is(err, fs.ErrNotExist)
	if err := s.watch.open(ctx, s); err != nil {
		return err
	}
	version, err := queryInt(ctx, s.watch.conn, "PRAGMA user_version")
	if err != nil {
		return err
	}
	if version != schemaVersion {
		return &Error{Op: "open", Path: s.path,
			Err:  fmt.Errorf("schema version %d must be migrated, and the file system is mounted read-only", version),
			hint: "Mount it read-write and run: pkcs11kms doctor --migrate\nOr use the version of pkcs11kms that last opened this store."}
	}
	if err := s.watch.prepare(ctx); err != nil {
		return err
	}
	s.logger.Warn("the file system of the key store is mounted read-only: nothing can be changed", "path", s.path)
	return s.openReaders(ctx)
}

// reading connects for reading only, in the way that the file system allows.
func (s *Store) reading() *connector {
	if s.readOnly == nil {
		return reading(s.path, s.inPlace)
	}
	params := url.Values{"mode": {"ro"}, "_busy_timeout": {busyMillis}}
	if s.frozen {
		params.Set("immutable", "1")
	}
	return &connector{uri: fileURI(s.path, params), same: s.inPlace, pragmas: safetyPragmas}
}

// stillFrozen ends a store that is read without its journal when there is one.
func (s *Store) stillFrozen() error {
	if !s.frozen {
		return nil
	}
	_, err := os.Stat(s.path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return s.end(&Error{Op: "use", Path: s.path, Err: errors.New("opened read-only, and somebody writes to it now"),
		hint: "Restart the program to read what is there now."})
}
