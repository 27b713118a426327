package pkcs11kms

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// repairTries bounds how often Repair begins anew because others changed what it was about to correct.
const repairTries = 10

// Repair finishes keys that dead processes left half made or half deleted, corrects counters that do not fit what they
// count, and removes aliases that name no key. It destroys only objects that a half-made record names: unknown objects are
// DestroyObject's, one at a time. It tells what it did, also beside an error.
func (b *Bridge) Repair(ctx context.Context) (done []string, err error) {
	finished, err := b.tidyOnce(ctx)
	for _, id := range finished {
		done = append(done, "removed the key "+id+", which was left half made or half deleted")
	}
	problems := []error{err}
	for range repairTries {
		found, err := discrepancies(ctx, b.store, b.cfg)
		if err != nil {
			return done, errors.Join(append(problems, err)...)
		}
		remedies, lost, err := b.correct(ctx, found)
		done = append(done, remedies...)
		if err != nil || !lost {
			return done, errors.Join(append(problems, err)...)
		}
	}
	return done, errors.Join(append(problems, errors.New("others change the store too fast for it to be corrected"))...)
}

// correct commits what would correct the findings, and tells whether others were faster in a case.
func (b *Bridge) correct(ctx context.Context, found []discrepancy) (done []string, lost bool, err error) {
	for _, wrong := range found {
		if wrong.batch == nil {
			err = errors.Join(err, fmt.Errorf("%s %s %s", wrong.area, wrong.subject, wrong.text))
			continue
		}
		switch _, failure := b.cache.Commit(ctx, wrong.batch...); {
		case failure == nil:
			done = append(done, wrong.remedy)
		case errors.Is(failure, keystore.ErrConflict):
			lost = true
		default:
			return done, false, errors.Join(err, failure)
		}
	}
	return done, lost, err
}

// destroyPrefix begins the id of the record by which DestroyObject claims an object.
const destroyPrefix = "pkcs11kms/destroy/"

// DestroyObject destroys the one object of a region's token that has the CKA_ID and that no record of the store names: one
// that doctor lists as unknown. The halves of a key pair count as one. The empty region is the default one. An object that a
// key has, and an ambiguous CKA_ID, are refused with a *RefusedError. There is no way back, and the object may be another application's: ask first.
//
// The object is claimed by a record in the state Deleting, so that nobody can adopt it meanwhile. If the process dies, the
// janitor takes the claim away and leaves the object, which has another label than a key of ours: ask again.
func (b *Bridge) DestroyObject(ctx context.Context, regionName string, ckaID []byte) error {
	c, err := b.Client(regionName)
	if err != nil {
		return err
	}
	if len(ckaID) == 0 {
		return &RefusedError{Problem: "an empty CKA_ID names no object", Advice: "remove objects without a CKA_ID with the tools of the token"}
	}
	claim := keystore.Key{Region: c.region.name, ID: destroyPrefix + hex.EncodeToString(ckaID), CKAID: ckaID,
		State: keystore.Deleting, Instance: b.store.Instance(), Created: b.wallClock()}
	defer b.inProgress.add(claim.Ref())()
	version, err := b.cache.Commit(ctx, claim.Put(0))
	switch {
	case errors.Is(err, keystore.ErrExists):
		return &RefusedError{Problem: fmt.Sprintf("the object with the CKA_ID %x belongs to a key", ckaID),
			Advice: "delete the key instead: pkcs11kms schedule-key-deletion --key-id ID", Err: b.unmanaged(ctx, ckaID)}
	case errors.Is(err, keystore.ErrConflict):
		return &RefusedError{Problem: fmt.Sprintf("the object with the CKA_ID %x is being destroyed already", ckaID), Advice: "wait, and look again: pkcs11kms doctor"}
	case err != nil:
		return err
	}
	destroyed := c.region.token.DestroyObject(ctx, ckaID)
	// The caller's time may be over, but not for the claim: whoever was told of an error does not expect the janitor to
	// destroy the object after all.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.cfg.CallTimeout)
	defer cancel()
	_, err = b.cache.Commit(ctx, keystore.Change{Op: keystore.Delete, Ref: claim.Ref(), Expect: version})
	if destroyed == nil {
		b.log.Warn("destroyed an object that no key has", "region", c.region.name, "cka_id", claim.CKAID.String())
	}
	return errors.Join(destroyRefusal(destroyed, ckaID), err)
}

func destroyRefusal(err error, ckaID []byte) error {
	switch {
	case errors.Is(err, token.ErrKeyMissing):
		return &RefusedError{Problem: fmt.Sprintf("no object of the token has the CKA_ID %x", ckaID), Advice: "see which there are: pkcs11kms doctor", Err: err}
	case errors.Is(err, token.ErrKeyAmbiguous):
		return &RefusedError{Problem: fmt.Sprintf("several objects of the token have the CKA_ID %x", ckaID),
			Advice: "destroy them with the tools of the token", Err: err}
	}
	return err
}
