package sqlite

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// applicationID marks a file as a key store, in the application_id field of its SQLite header ("pkKS"). It is frozen:
// a file with another one is foreign for good.
const applicationID = 0x706b4b53

// Create makes a new, empty store file with mode 0600, and the directory for the locks beside it. A file that is there
// already is an error and stays as it is. At no time is there a half-made file at path.
func Create(path string) error {
	ctx := context.Background()
	if err := checkVacant("create", path); err != nil {
		return err
	}
	draft := draftOf(path)
	defer removeDraft(draft)
	if err := build(ctx, draft); err != nil {
		return fail(ctx, "create", path, err)
	}
	if err := makeLocksDir(filepath.Join(filepath.Dir(path), locksName)); err != nil {
		return fail(ctx, "create", path, err)
	}
	return fail(ctx, "create", path, publish("create", draft, path))
}

// draftOf names the file, beside the one that it will become, in which a store is made.
func draftOf(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new-"+randomHex())
}

// publish gives a finished draft its name. A link, unlike a rename, never replaces what somebody else put there meanwhile.
func publish(op, draft, path string) error {
	err := os.Link(draft, path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return vacancyError(op, path)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EOPNOTSUPP):
		return &Error{Op: op, Path: path, Err: err,
			hint: "The file system allows no hard links. Name a file on another one, and copy it from there."}
	case err != nil:
		return err
	}
	removeDraft(draft)
	return syncFile(filepath.Dir(path))
}

// journals are the suffixes of the files that SQLite keeps beside a store.
var journals = []string{"-wal", "-journal", "-shm"}

// checkVacant makes sure that neither a store nor the journal of a lost one is in the way: SQLite would replay an old
// journal into the new file.
func checkVacant(op, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return vacancyError(op, path)
	}
	for _, suffix := range journals {
		if _, err := os.Lstat(path + suffix); err == nil {
			return &Error{Op: op, Path: path,
				Err: fmt.Errorf("the journal %q of an earlier store is in the way", path+suffix),
				hint: "It holds the last changes of a store that was moved away or removed. Put that store back, or\n" +
					"move the journal away as well."}
		}
	}
	return nil
}

// vacancyHints say what to do about a file that is in the way, by operation.
var vacancyHints = map[string]string{
	"create": "The store is there: nothing is left to create. To start anew choose another state directory.",
	"restore": "A backup never replaces a store. If that one is lost or damaged, end every process that uses it and move it\n" +
		"away, with its -wal and -shm files.",
	"write backup": "A backup never replaces a file: choose another name.",
}

func vacancyError(op, path string) error {
	return &Error{Op: op, Path: path, Err: errors.New("file exists already"), hint: vacancyHints[op]}
}

// build makes the complete file under a name of its own and brings it to the disk.
func build(ctx context.Context, draft string) error {
	if err := newFile(draft); err != nil {
		return err
	}
	if err := fill(ctx, draft, schemaVersion); err != nil {
		return err
	}
	return seal(draft)
}

// newFile makes an empty file for its owner alone.
func newFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// seal brings a draft that nobody has open to the disk, and makes sure that everything is in the one file.
func seal(draft string) error {
	if _, err := os.Lstat(draft + "-wal"); err == nil {
		return errors.New("checkpoint left a journal behind") // it would be lost with the draft's name
	}
	return syncFile(draft)
}

// fill turns an empty file into a store of the given version, with everything in the main file.
func fill(ctx context.Context, path string, version int64) (err error) {
	db := writing(path, nil).open(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	steps := []string{
		fmt.Sprintf("PRAGMA page_size = %d", pageSize),
		fmt.Sprintf("PRAGMA application_id = %d", applicationID),
		"PRAGMA journal_mode = WAL",
	}
	for _, step := range append(steps, "BEGIN IMMEDIATE") {
		if _, err := conn.ExecContext(ctx, step); err != nil {
			return err
		}
	}
	if err := migrate(ctx, conn, 0, version); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
		return err
	}
	return checkpoint(ctx, conn)
}

func removeDraft(draft string) {
	for _, suffix := range append([]string{""}, journals...) {
		_ = os.Remove(draft + suffix) // what is gone is gone, and what cannot be removed does no harm
	}
}

// syncFile brings a file, or the names in a directory, to the disk.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func randomHex() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}
