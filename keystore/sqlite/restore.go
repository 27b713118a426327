package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/pkcs11kms/bridge/keystore"
)

// Between backup and restore the token went on. So a restored store must not lead anybody to destroy what it does not know
// of:
//
//   - A key in Creating may have been finished and be in use by now. A janitor would take its creator for dead, as it is,
//     and destroy the object. Without its record the object is one that nobody names, and is left alone.
//   - A key in Deleting has no way back, and its object may be gone. Nobody knows what became of it, so nobody destroys it.
//   - A deletion that was scheduled may have been cancelled. It is put off until people had time to look.

// RestoreGrace is how long after a restore the earliest scheduled deletion takes place.
const RestoreGrace = 7 * 24 * time.Hour

//   - What is changed so has no seal, and records of before the backup may come with seals that are right. So where records are sealed,
//     all must be sealed anew.

// Restored says what Restore changed beside putting the backup in place.
type Restored struct {
	Reseal    bool           // the records are sealed, and nobody uses the store until somebody has sealed all of them anew
	Dropped   []keystore.Ref // keys that were half made or half deleted; their objects, if any, are nobody's now
	Postponed []keystore.Ref // keys whose deletion was scheduled, and was put off to RestoreGrace from now
}

const (
	opRestore     = "restore"
	opRestoreFrom = "restore from"
)

// Restore makes a store at path from a file that Store.Backup wrote. It verifies all of the backup, migrates it when it is
// of an older version, drops keys that were half made or half deleted, and puts off scheduled deletions. What is at path
// already, or the journal of a lost store, is an error and stays as it is; at no time is there a half-made file at path.
// The backup is not changed. look, if it is not nil, looks at what the backup holds before anything of it is changed; its error ends the
// restore.
func Restore(ctx context.Context, backup, path string, look func(context.Context, keystore.Store) error) (*Restored, error) {
	if err := checkVacant(opRestore, path); err != nil {
		return nil, err
	}
	if err := checkBackup(ctx, backup); err != nil {
		return nil, failRestore(ctx, backup, err)
	}
	draft := draftOf(path)
	locks := draft + ".locks" // the store's own are for those who open the finished one
	kept := filepath.Join(filepath.Dir(path), locksName)
	_, missing := os.Lstat(kept)
	published := false
	defer func() {
		if missing != nil && !published {
			_ = os.Remove(kept) // if it is empty still
		}
	}()
	if err := makeLocksDir(kept); err != nil {
		return nil, fail(ctx, opRestore, path, err)
	}
	noted, err := noteDraft(kept, draft)
	if err != nil {
		return nil, fail(ctx, opRestore, path, err)
	}
	defer noted()
	defer func() {
		removeDraft(draft)
		_ = os.RemoveAll(locks) // what cannot be removed does no harm
	}()
	if err := copyBackup(ctx, backup, draft); err != nil {
		return nil, fail(ctx, opRestore, path, err)
	}
	done, err := settleDraft(ctx, draft, locks, look)
	if isDamage(err) {
		return nil, failRestore(ctx, backup, err)
	}
	if err == nil {
		err = seal(draft)
	}
	if err == nil {
		err = publish(opRestore, draft, path)
	}
	if err != nil {
		return nil, fail(ctx, opRestore, path, err)
	}
	published = true
	return done, nil
}

// checkBackup refuses what is no backup, without a change to it.
func checkBackup(ctx context.Context, backup string) error {
	info, err := os.Stat(backup)
	if err != nil {
		return err
	}
	if err := checkFile(backup, info); err != nil {
		return err
	}
	if hasJournal(backup) {
		return &Error{Op: opRestoreFrom, Path: backup, Err: errors.New("a journal is beside it, so it is a store and no backup"),
			hint: "Make a backup of that store with: pkcs11kms backup FILE"}
	}
	_, err = checkHeader(ctx, backup)
	return err
}

// failRestore says of an error that the backup is to blame for.
func failRestore(ctx context.Context, backup string, err error) error {
	if isDamage(err) {
		if known := (*Error)(nil); errors.As(err, &known) {
			err = known.Err // it may name the draft
		}
		return &Error{Op: opRestoreFrom, Path: backup, Err: asDamage(err),
			hint: "Use another backup; this one cannot be trusted. Nothing was changed."}
	}
	return fail(ctx, opRestoreFrom, backup, err)
}

func isDamage(err error) bool {
	var se sqlite3.Error
	return errors.Is(err, errDamaged) || errors.As(err, &se) && (se.Code == sqlite3.ErrCorrupt || se.Code == sqlite3.ErrNotADB)
}

func copyBackup(ctx context.Context, backup, draft string) (err error) {
	db := looking(backup).open(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return copyPages(ctx, conn, draft, nil)
}

func settleDraft(ctx context.Context, draft, locks string, look func(context.Context, keystore.Store) error) (done *Restored, err error) {
	if _, err := upgrade(ctx, draft, Options{LocksDir: locks}, false); err != nil {
		return nil, err
	}
	s, err := Open(ctx, draft, Options{LocksDir: locks})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Verify(ctx); err != nil {
		return nil, err
	}
	if look != nil {
		if err := look(ctx, s); err != nil {
			return nil, err
		}
	}
	return settle(ctx, s)
}

func settle(ctx context.Context, s keystore.Store) (*Restored, error) {
	done := &Restored{}
	err := unfinishSeals(ctx, s, done)
	if err != nil {
		return nil, err
	}
	err = eachOf(ctx, s, keystore.IndexUnfinished, func(rec keystore.Record) error {
		if kept, err := settleImport(ctx, s, rec); kept || err != nil {
			return err
		}
		done.Dropped = append(done.Dropped, rec.Ref)
		return drop(ctx, s, rec)
	})
	if err != nil {
		return nil, err
	}
	earliest := time.Now().Add(RestoreGrace).UTC().Truncate(time.Millisecond)
	err = eachOf(ctx, s, keystore.IndexPendingDeletion, func(rec keystore.Record) error {
		key, err := keystore.DecodeKey(rec)
		if err != nil || !key.DeletionDate.Before(earliest) {
			return err
		}
		key.DeletionDate = earliest
		done.Postponed = append(done.Postponed, rec.Ref)
		_, err = s.Commit(ctx, key.Put(rec.Version))
		return err
	})
	return done, err
}

func unfinishSeals(ctx context.Context, s keystore.Store, done *Restored) error {
	rec, err := s.Get(ctx, keystore.SealsRef())
	if errors.Is(err, keystore.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	rec.Seal = nil
	seals, err := keystore.DecodeSeals(rec)
	if err != nil {
		return err
	}
	done.Reseal, seals.Unfinished = true, true
	_, err = s.Commit(ctx, seals.Put(rec.Version))
	return err
}

func eachOf(ctx context.Context, s keystore.Store, index keystore.Index, visit func(keystore.Record) error) error {
	var after keystore.Ref
	for {
		recs, err := s.Lookup(ctx, index, "", after, keystore.MaxPage)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			after, rec.Seal = rec.Ref, nil
			if err := visit(rec); err != nil {
				return fmt.Errorf("key %s: %w", rec.Ref.ID, err)
			}
		}
		if len(recs) < keystore.MaxPage {
			return nil
		}
	}
}

// settleImport ends the import, or the deletion, of the material of a key that is whole. An object that it may have left in the token
// stays.
func settleImport(ctx context.Context, s keystore.Store, rec keystore.Record) (kept bool, err error) {
	rec.Seal = nil
	key, err := keystore.DecodeKey(rec)
	if err != nil || key.State.Unfinished() {
		return false, nil //nolint:nilerr // what cannot be read is dropped
	}
	key.Instance = ""
	_, err = s.Commit(ctx, key.Put(rec.Version))
	return true, err
}

// drop removes a key's record with what counts it. (Half-made keys have no aliases.)
func drop(ctx context.Context, s keystore.Store, rec keystore.Record) error {
	changes := []keystore.Change{{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version}}
	counted, err := s.Get(ctx, keystore.CounterRef(rec.Ref.Region, rec.Ref.Account, keystore.CounterKeys))
	switch {
	case err == nil:
		counted.Seal = nil
		counter, err := keystore.DecodeCounter(counted)
		if err != nil {
			return err
		}
		counter.N = max(0, counter.N-1)
		changes = append(changes, counter.Put(counted.Version))
	case !errors.Is(err, keystore.ErrNotFound):
		return err
	}
	_, err = s.Commit(ctx, changes...)
	return err
}
