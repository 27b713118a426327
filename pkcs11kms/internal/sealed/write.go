package sealed

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash/maphash"
	"slices"
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
const commitTries = 25

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
	writes, err := s.writes(ctx, now, changes, revisions)
	if err != nil {
		return 0, now.version, err
	}
	switch {
	case len(sealing) == keystore.MaxChanges && s.rootVersion(ctx) != now.version:
		return 0, now.version, keystore.ErrConflict
	case len(sealing) < keystore.MaxChanges:
		sealing = append(sealing, keystore.Change{Op: keystore.Check, Ref: keystore.SealsRef(), Expect: now.version})
	}
	version, err = s.Store.Commit(ctx, sealing...)
	if err == nil && now.seals != nil {
		for i, c := range changes {
			if c.Op != keystore.Check {
				s.see(c.Ref, revisions[i]) // what was deleted is not to come back
			}
		}
	}
	if !isRefusal(err) {
		for _, w := range writes {
			w.Commit, w.Unsure = version, err != nil
			audit.NoteWrite(ctx, w)
		}
	}
	return version, now.version, err
}

// isRefusal tells whether a Commit has surely changed nothing.
func isRefusal(err error) bool {
	return slices.ContainsFunc([]error{keystore.ErrConflict, keystore.ErrExists, keystore.ErrBusy, keystore.ErrFull, keystore.ErrReadOnly},
		func(refusal error) bool { return errors.Is(err, refusal) })
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

// writes is what the audit log is told of changes, if it is told: what was there before is what the commit replaces, or it fails. What
// follows from other records or is no business of an auditor's is left out: counters, what is known of tokens, service keys.
func (s *Store) writes(ctx context.Context, now *state, changes []keystore.Change, revisions []uint64) (writes []audit.Wrote, err error) {
	if now.seals == nil || !audit.CollectsWrites(ctx) {
		return nil, nil
	}
	for i, c := range changes {
		if c.Op == keystore.Check || !Told(c.Ref) {
			continue
		}
		w := audit.Wrote{Record: Name(c.Ref), Revision: revisions[i], Deleted: c.Op == keystore.Delete, Epoch: now.root.Epoch}
		if !w.Deleted {
			w.SHA256 = sha256.Sum256(c.Value)
		}
		if c.Expect > 0 {
			if w.Was, err = s.before(ctx, now, c); err != nil {
				return nil, err
			}
		}
		writes = append(writes, w)
	}
	return writes, nil
}

// before is what a change replaces.
func (s *Store) before(ctx context.Context, now *state, c keystore.Change) (*audit.Stored, error) {
	rec, err := s.Store.Get(ctx, c.Ref)
	if errors.Is(err, keystore.ErrNotFound) || err == nil && rec.Version != c.Expect {
		return nil, keystore.ErrConflict
	}
	if err != nil {
		return nil, err
	}
	revision, err := now.check(rec)
	if err != nil {
		return nil, s.refuse(rec, err)
	}
	return &audit.Stored{Revision: revision, SHA256: sha256.Sum256(rec.Value)}, nil
}

// Told tells whether the audit log is told what is written to a record.
func Told(ref keystore.Ref) bool {
	switch ref.Kind {
	case keystore.KindKey:
		return ref.Account != ""
	case keystore.KindAlias, keystore.KindAccessKey, keystore.KindPrincipal, keystore.KindManagedPolicy, keystore.KindGrant,
		keystore.KindGrantee, keystore.KindAccount, keystore.KindOIDCProvider:
		return true
	}
	return false
}

// Name is what a record is called in errors, reports and the audit log.
func Name(ref keystore.Ref) string {
	return string(ref.Kind) + "/" + ref.Region + "/" + ref.Account + "/" + ref.ID
}
