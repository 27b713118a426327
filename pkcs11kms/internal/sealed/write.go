package sealed

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash/maphash"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

// Commit implements keystore.Store: what is put gets a seal. ErrChanged when the seals are others than this process can know.
func (s *Store) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	if s.trusted.Load() {
		return s.Store.Commit(ctx, changes...)
	}
	for range commitTries {
		version, by, err := s.commit(ctx, changes)
		if !errors.Is(err, keystore.ErrConflict) || by == s.rootVersion(ctx) {
			return version, err
		}
		if s.Version() != by {
			continue // somebody has seen it
		}
		if changed, lookErr := s.LookAgain(ctx); lookErr != nil || !changed {
			return 0, errors.Join(ErrChanged, lookErr)
		}
	}
	return 0, ErrChanged
}

// commitTries is how often a commit is made whose seals are others than they were.
const commitTries = 5

// rootVersion is the version of the record of seals now; where it cannot be read, that which is known.
func (s *Store) rootVersion(ctx context.Context) uint64 {
	_, version, err := rootOf(ctx, s.Store)
	if err != nil {
		return s.state.Load().version
	}
	return version
}

// commit commits under the condition that the seals are what they were, where there is room for one more: nobody writes by a key that has
// gone. by is the version of their record.
func (s *Store) commit(ctx context.Context, changes []keystore.Change) (version, by uint64, err error) {
	if err := s.Open(ctx); err != nil {
		return 0, 0, err
	}
	now := s.state.Load()
	sealing, revisions := s.seal(now.seals, changes)
	switch {
	case len(sealing) == keystore.MaxChanges && s.rootVersion(ctx) != now.version:
		return 0, now.version, keystore.ErrConflict
	case len(sealing) < keystore.MaxChanges:
		sealing = append(sealing, keystore.Change{Op: keystore.Check, Ref: keystore.SealsRef(), Expect: now.version})
	}
	if version, err = s.Store.Commit(ctx, sealing...); err == nil && now.seals != nil {
		s.written(ctx, changes, revisions)
	}
	return version, now.version, err
}

// seal returns the changes with their seals, and the revisions; what is deleted has one, too, of before it is. Without a key there are
// none.
func (s *Store) seal(key *seals, changes []keystore.Change) (sealing []keystore.Change, revisions []uint64) {
	sealing = make([]keystore.Change, len(changes), len(changes)+1)
	copy(sealing, changes)
	if key == nil {
		return sealing, nil
	}
	for i := range sealing {
		c := &sealing[i]
		revisions = append(revisions, s.nextRevision(c.Ref))
		if c.Op == keystore.Put {
			c.Seal = key.make(c.Ref, c.Value, revisions[i])
		}
	}
	return sealing, revisions
}

// revisionAtTime is the revision of what is written at a time: its microseconds since 1970.
func revisionAtTime(t time.Time) uint64 { return uint64(t.UnixMicro()) }

// nextRevision is greater than every one of the record before, also where it was deleted meanwhile: that of the time, unless the clock was
// set back.
func (s *Store) nextRevision(ref keystore.Ref) uint64 {
	now := revisionAtTime(s.o.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.seen.Get(maphash.Comparable(s.seed, ref)); ok && last >= now {
		return last + 1
	}
	return now
}

// written remembers what a Commit has written, and that what it has deleted is not to come back; and tells who collects that for the audit
// log.
func (s *Store) written(ctx context.Context, changes []keystore.Change, revisions []uint64) {
	for i, c := range changes {
		if c.Op == keystore.Check {
			continue
		}
		s.see(c.Ref, revisions[i])
		w := audit.Wrote{Revision: revisions[i], Deleted: c.Op == keystore.Delete}
		if !w.Deleted {
			w.SHA256 = sha256.Sum256(c.Value)
		}
		note(ctx, c.Ref, w)
	}
}

// note leaves out what follows from other records or is no business of an auditor's: counters, what is known of tokens, service keys.
func note(ctx context.Context, ref keystore.Ref, w audit.Wrote) {
	if !Told(ref) {
		return
	}
	w.Record = Name(ref)
	audit.NoteWrite(ctx, w)
}

// Told tells whether the audit log is told what is written to a record.
func Told(ref keystore.Ref) bool {
	switch ref.Kind {
	case keystore.KindKey:
		return ref.Account != ""
	case keystore.KindAlias, keystore.KindAccessKey, keystore.KindPrincipal, keystore.KindGrant, keystore.KindGrantee:
		return true
	}
	return false
}

// Name is the name of a record in the audit log.
func Name(ref keystore.Ref) string {
	return string(ref.Kind) + "/" + ref.Region + "/" + ref.Account + "/" + ref.ID
}
