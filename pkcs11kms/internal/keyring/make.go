package keyring

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// A key is made in three steps, and whoever dies between two of them leaves something that the janitor can finish:
//
//  1. the record, in the state Creating, with the CKA_ID that the object will have and the instance that works on it;
//  2. the object in the token;
//  3. the record again, now Enabled.
//
// The record comes first because an object that no record names could never be told from another application's. The
// record is invisible until step 3. When step 2 or 3 fails, the record goes to Deleting, the object is destroyed and
// the record removed: the same way that the janitor takes.

// NewRecord begins the record of a key that is to be made in the region's token.
func (g *Region) NewRecord(account, id string) keystore.Key {
	return keystore.Key{Region: g.Name, Account: account, ID: id, CKAID: g.newCKAID()}
}

func (g *Region) newCKAID() keystore.HexBytes {
	id := make(keystore.HexBytes, g.Token.Capabilities().IDBytes)
	rand.Read(id) // never fails, see crypto/rand
	return id
}

// idAttempts is how many CKA_IDs are tried on tokens where ids are so short that a random one may be taken.
const idAttempts = 32

// place is where a new record goes: in the place of one that has this version (0: of none), if the others are as they are said
// to be.
type place struct {
	expect uint64
	others []keystore.Change
}

// Make makes the key of a new record, in the three steps. keystore.ErrConflict says that what precondition names has changed
// at the end.
func (r *Ring) Make(ctx context.Context, in *Region, spec *Spec, record keystore.Key, precondition []keystore.Change) (*Key, error) {
	defer r.keepLearnt(ctx, in)
	return r.make(ctx, in, spec, record, place{}, precondition)
}

// make is Make, also with keystore.ErrConflict when the record's place is taken.
func (r *Ring) make(
	ctx context.Context, in *Region, spec *Spec, record keystore.Key, at place, precondition []keystore.Change,
) (k *Key, err error) {
	if err := in.Token.Await(ctx); err != nil { // before anything is written down for it
		return nil, err
	}
	err = in.withFreeID(record, func(record keystore.Key) (err error) {
		k, err = r.tryMake(ctx, in, spec, record, at, precondition)
		return err
	})
	return k, err
}

// withFreeID tries to make a key with other CKA_IDs while an object or a record has the one that was taken.
func (g *Region) withFreeID(record keystore.Key, try func(keystore.Key) error) (err error) {
	for range idAttempts {
		err = try(record)
		if !errors.Is(err, token.ErrKeyExists) && !errors.Is(err, keystore.ErrExists) {
			break
		}
		record.CKAID = g.newCKAID()
	}
	return err
}

func (r *Ring) tryMake(
	ctx context.Context, in *Region, spec *Spec, record keystore.Key, at place, precondition []keystore.Change,
) (*Key, error) {
	begun, err := r.generate(ctx, in, spec, record, at)
	if err != nil {
		return nil, err
	}
	defer begun.done()
	made := begun.record
	made.State, made.Instance, made.PublicKey = keystore.Enabled, "", begun.public
	if spec.Wraps {
		made.State, made.DeletionDate = keystore.PendingDeletion, spec.Until
	}
	var enabled uint64
	if made.Proof, err = secretsProof(ctx, in.Token, made); err == nil {
		enabled, err = r.cache.Commit(ctx, append([]keystore.Change{made.Put(begun.version)}, precondition...)...)
	}
	if err != nil {
		r.undo(ctx, begun.record, begun.version, err)
		return nil, err
	}
	crash.At("flipped")
	in.handles.Store(made.CKAID.String(), begun.object)
	return r.Decode(keystore.Record{Ref: made.Ref(), Version: enabled, Value: made.Put(0).Value})
}

// begunKey is a key after the second step: it has its object, and its record is in Creating.
type begunKey struct {
	record  keystore.Key
	version uint64
	object  any    // see Spec.Generate
	public  []byte // of a pair
	done    func() // says that nobody works on it any more
}

// generate does the first two steps, or nothing.
func (r *Ring) generate(ctx context.Context, in *Region, spec *Spec, record keystore.Key, at place) (b begunKey, err error) {
	b.record = r.begun(record, spec)
	b.record.State, b.record.Instance = keystore.Creating, r.cfg.Store.Instance()
	b.done = r.inProgress.add(b.record.Ref())
	defer func() {
		if err != nil {
			b.done()
		}
	}()
	if b.version, err = r.commitCounted(ctx, b.record, 1, b.record.Put(at.expect), at.others...); err != nil {
		return b, err
	}
	crash.At("record-written")
	if b.object, b.public, err = spec.Generate(ctx, in.Token, b.record); err != nil {
		r.undo(ctx, b.record, b.version, err)
		return b, err
	}
	crash.At("object-made")
	return b, nil
}

// MakeEmpty makes the record of a key whose material is to be imported: it has no object.
func (r *Ring) MakeEmpty(ctx context.Context, spec *Spec, record keystore.Key, precondition []keystore.Change) (*Key, error) {
	record = r.begun(record, spec)
	record.Origin, record.State, record.Import = string(types.OriginTypeExternal), keystore.PendingImport, &keystore.Import{}
	return r.putNew(ctx, record, precondition)
}

// Adopt makes the record of an enabled key whose object is in the token already. keystore.ErrExists says that a key has it,
// keystore.ErrConflict that what precondition names has changed.
func (r *Ring) Adopt(ctx context.Context, spec *Spec, record keystore.Key, precondition []keystore.Change) (*Key, error) {
	record = r.begun(record, spec)
	record.State = keystore.Enabled
	return r.putNew(ctx, record, precondition)
}

// putNew commits a new record as it is.
func (r *Ring) putNew(ctx context.Context, record keystore.Key, precondition []keystore.Change) (*Key, error) {
	change := record.Put(0)
	version, err := r.commitCounted(ctx, record, 1, change, precondition...)
	if err != nil {
		return nil, err
	}
	return r.Decode(keystore.Record{Ref: change.Ref, Version: version, Value: change.Value})
}

// begun is a new record with what every key of the spec has.
func (r *Ring) begun(record keystore.Key, spec *Spec) keystore.Key {
	record.Spec, record.Usage, record.Origin = string(spec.Name), string(spec.Usage), string(types.OriginTypeAwsKms)
	record.Created = records.Time(r.cfg.Now())
	return record
}

// commitCounted commits a change that makes (n is 1) or removes (-1) a key's record together with the counter of the account's
// keys, within their quota. A race that is lost for the counter alone is run again. The batch is bound to others.
func (r *Ring) commitCounted(
	ctx context.Context, record keystore.Key, n int, change keystore.Change, others ...keystore.Change,
) (version uint64, err error) {
	err = records.RetryConflicts(ctx, func() error {
		count, err := r.countKey(ctx, record, n)
		if err != nil {
			return err
		}
		version, err = r.cache.Commit(ctx, append(append(count, others...), change)...)
		if !errors.Is(err, keystore.ErrConflict) {
			return err
		}
		rec, getErr := r.cfg.Store.Get(ctx, change.Ref) // whose conflict was it?
		switch {
		case getErr != nil && !errors.Is(getErr, keystore.ErrNotFound):
			return getErr
		case rec.Version != change.Expect, len(others) > 0:
			return fmt.Errorf("key %s: %w", record.ID, errLostRecord)
		}
		return err
	})
	if errors.Is(err, errLostRecord) {
		err = fmt.Errorf("%w: %w", keystore.ErrConflict, err)
	}
	return version, err
}

// errLostRecord tells a conflict over the record itself from one over its counter.
var errLostRecord = errors.New("its record was changed by somebody else")

// countKey returns the change of the counter of an account's keys, or LimitExceededException. Service keys are not counted:
// no change. With the first key it is noted since when the uses of keys are.
func (r *Ring) countKey(ctx context.Context, record keystore.Key, n int) ([]keystore.Change, error) {
	if record.Account == "" {
		return nil, nil
	}
	counter, version, err := records.ReadCounter(ctx, r.cfg.Store, record.Region, record.Account, keystore.CounterKeys)
	if err != nil {
		return nil, err
	}
	counter.N += n
	if limit := r.cfg.MaxKeys; n > 0 && counter.N > limit {
		return nil, apierr.LimitExceeded(fmt.Sprintf("The account has reached its limit of %d keys in the region.", limit))
	}
	changes := []keystore.Change{counter.Put(version)}
	if version > 0 || n < 0 {
		return changes, nil
	}
	since, version, err := records.ReadCounter(ctx, r.cfg.Store, record.Region, record.Account, keystore.CounterKeyUses)
	if err == nil && version == 0 { // the first key: nobody can have used one before
		since.N = int(record.Created.Unix())
		changes = append(changes, since.Put(0))
	}
	return changes, err
}

// undo removes what tryMake began. What cannot be removed now is left to the janitor, under the record.
func (r *Ring) undo(ctx context.Context, record keystore.Key, version uint64, cause error) {
	// The caller's time may be over, which must not keep us from tidying up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.CallTimeout)
	defer cancel()
	var hung *token.HungError
	if errors.As(cause, &hung) {
		// The token may still make the object. Keep the janitor of this process away until it has come back.
		r.inProgress.keep(record.Ref(), hung.Done())
		return
	}
	// Where the answer of the token may have been lost, an object that was not found may be there all the same, and nobody but this record
	// names it: the janitor looks once more, later.
	if _, err := r.finish(ctx, record, version, token.MayHaveMade(cause)); err != nil {
		r.cfg.Log.Warn("a key that could not be created is left to the janitor", "key", record.ID, "error", err)
	}
}
