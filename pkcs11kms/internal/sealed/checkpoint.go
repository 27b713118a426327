package sealed

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

// A checkpoint's hash is MSet-Add-Hash of Clarke, Devadas, van Dijk, Gassend and Suh ("Incremental Multiset Hash Functions and Their
// Application to Memory Integrity Checking", ASIACRYPT 2003, section 5): H(0, nonce) + the sum of H(1, element) over all elements, modulo
// 2^256, and their number, with HMAC-SHA-256 for H. It is proved collision resistant as long as the key of H is secret and no nonce is used
// twice. That of one moment follows from that of another by what was written in between, in whatever order, which a hash over an ordered
// walk does not give; and one that needs no key (LtHash) has 2 KiB and costs ten times as much an element.

// multiset is audit.Multiset by a key that is derived of that of the seals.
type multiset struct{ key [sha256.Size]byte }

func (s *seals) multiset() multiset {
	h := hmac.New(sha256.New, s.key[:])
	h.Write([]byte("pkcs11kms: the key of the hashes of checkpoints"))
	return multiset{[sha256.Size]byte(h.Sum(nil))}
}

// Nonce implements audit.Multiset.
func (m multiset) Nonce(nonce []byte) audit.Sum { return m.hash(0, nonce) }

// Element implements audit.Multiset.
func (m multiset) Element(name string, r audit.Stored) audit.Sum {
	element := make([]byte, 0, 8+sha256.Size+len(name))
	element = binary.BigEndian.AppendUint64(element, r.Revision)
	element = append(append(element, r.SHA256[:]...), name...) // what is before the name has one length
	return m.hash(1, element)
}

func (m multiset) hash(which byte, text []byte) audit.Sum {
	h := hmac.New(sha256.New, m.key[:])
	h.Write([]byte{which})
	h.Write(text)
	return audit.Sum(h.Sum(nil))
}

// ErrNoSnapshot says that the store cannot show one moment of itself.
var ErrNoSnapshot = errors.New("the store shows no single moment of itself")

// Stored returns the records of an unlocked store that the audit log is told of, as they are at one moment.
func (s *Store) Stored(ctx context.Context) (now audit.StoredRecords, err error) {
	now.Records = map[string]audit.Stored{}
	now.StoreMoment, err = s.eachStored(ctx, func(name string, r audit.Stored) { now.Records[name] = r },
		func(name string) { now.Edited = append(now.Edited, name) })
	return now, err
}

// eachStored visits them, and calls edited for those whose seals are not right.
func (s *Store) eachStored(
	ctx context.Context, visit func(name string, r audit.Stored), edited func(name string),
) (now audit.StoreMoment, err error) {
	is := s.state.Load()
	below, ok := s.Store.(keystore.Snapshots)
	switch {
	case is.seals == nil:
		return now, ErrLocked
	case !ok:
		return now, ErrNoSnapshot
	}
	now = audit.StoreMoment{Store: is.root.Store.String(), Epoch: is.root.Epoch, Hash: is.seals.multiset()}
	now.Commit, err = below.Snapshot(ctx, func(recs []keystore.Record) error {
		for _, rec := range recs {
			if rec.Ref == keystore.SealsRef() {
				if _, err := is.seals.check(rec); err != nil {
					return ErrChanged // and so is every other record
				}
			}
			if !Told(rec.Ref) {
				continue
			}
			if revision, err := is.check(rec); err != nil {
				edited(Name(rec.Ref))
			} else {
				visit(Name(rec.Ref), audit.Stored{Revision: revision, SHA256: sha256.Sum256(rec.Value)})
			}
		}
		return ctx.Err()
	})
	return now, err
}

// restShare is how much longer a checkpoint rests than it works: what signs meanwhile has the processors.
const restShare = 1

// Checkpoint counts and hashes the records of a store, which it unlocks, that the audit log is told of, as they are at one moment. It rests
// in between.
func (s *Store) Checkpoint(ctx context.Context) (*audit.Checkpoint, error) {
	if err := s.Open(ctx); err != nil {
		return nil, err
	}
	c := &audit.Checkpoint{Nonce: make([]byte, 16)}
	rand.Read(c.Nonce) // never fails, see crypto/rand
	key := s.state.Load().seals
	if key == nil {
		return nil, ErrLocked
	}
	hash, began := key.multiset(), time.Now()
	c.Hash = hash.Nonce(c.Nonce)
	now, err := s.eachStored(ctx, func(name string, r audit.Stored) {
		c.Hash = c.Hash.Plus(hash.Element(name, r))
		c.Records++
		if c.Records%restEach == 0 {
			rest(ctx, restShare*time.Since(began))
			began = time.Now()
		}
	}, func(string) {})
	if err != nil {
		return nil, err
	}
	if now.Epoch != key.of.Epoch { // sealed anew between the two looks
		return nil, ErrChanged
	}
	c.Store, c.Epoch, c.Commit = now.Store, now.Epoch, now.Commit
	return c, nil
}

// restEach is how many records are hashed between two rests.
const restEach = 256

func rest(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
