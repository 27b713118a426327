package doctor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// destroyPrefix begins the id of the record by which DestroyObject claims an object.
const destroyPrefix = "pkcs11kms/destroy/"

// DestroyObject destroys the one object of a region's token that has the CKA_ID and that no record of the store names: one
// that doctor lists as unknown. The halves of a key pair count as one. The token is that of the client's
// region, whose caller needs the permission pkcs11kms:DestroyObject. An object that a key has, and an ambiguous CKA_ID, are refused
// with a *pkcs11kms.RefusedError. There is no way back, and the object may be another application's: ask first.
//
// The object is claimed by a record in the state Deleting, so that nobody can adopt it meanwhile. If the process dies, the
// janitor takes the claim away and leaves the object, which has another label than a key of ours: ask again.
func DestroyObject(ctx context.Context, c *pkcs11kms.Client, ckaID []byte) error {
	in := map[string]any{"region": c.Region(), "ckaId": hex.EncodeToString(ckaID)}
	run := func(ctx context.Context, inside *core.Core, precondition []keystore.Change) error {
		return destroyObject(ctx, inside, c.Region(), ckaID, precondition)
	}
	return pkcs11kms.Administer(ctx, c, ops.DestroyObject, in, run)
}

func destroyObject(ctx context.Context, inside *core.Core, region string, ckaID []byte, precondition []keystore.Change) error {
	if len(ckaID) == 0 {
		return refused("an empty CKA_ID names no object", "remove objects without a CKA_ID with the tools of the token", nil)
	}
	claim := keystore.Key{Region: region, ID: destroyPrefix + hex.EncodeToString(ckaID), CKAID: ckaID,
		State: keystore.Deleting, Instance: inside.Store.Instance(), Created: inside.Now()}
	defer inside.Keys.InProgress(claim.Ref())()
	version, err := inside.Cache.Commit(ctx, append([]keystore.Change{claim.Put(0)}, precondition...)...)
	if errors.Is(err, keystore.ErrConflict) {
		if _, missing := inside.Store.Get(ctx, claim.Ref()); errors.Is(missing, keystore.ErrNotFound) {
			return err // the caller is not what it was, or the claim has just gone: it is decided anew
		}
	}
	switch {
	case errors.Is(err, keystore.ErrExists):
		return refused(fmt.Sprintf("the object with the CKA_ID %x belongs to a key", ckaID),
			"delete the key instead: pkcs11kms schedule-key-deletion --key-id ID", unmanaged(ctx, inside.Store, ckaID))
	case errors.Is(err, keystore.ErrConflict):
		return refused(fmt.Sprintf("the object with the CKA_ID %x is being destroyed already", ckaID),
			"wait, and look again: pkcs11kms doctor", nil)
	case err != nil:
		return err
	}
	destroyed := inside.Keys.Region(region).Token.DestroyObject(ctx, ckaID)
	// The caller's time may be over, but not for the claim: whoever was told of an error does not expect the janitor to
	// destroy the object after all.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inside.CallTimeout)
	defer cancel()
	_, err = inside.Cache.Commit(ctx, keystore.Change{Op: keystore.Delete, Ref: claim.Ref(), Expect: version})
	if errors.Is(err, keystore.ErrConflict) {
		err = nil // a janitor has it, who took this process for dead: nothing is to be done again
	}
	if destroyed == nil {
		inside.Log.Warn("destroyed an object that no key has", "region", region, "cka_id", claim.CKAID.String())
	}
	return errors.Join(destroyRefusal(destroyed, ckaID), err)
}

func destroyRefusal(err error, ckaID []byte) error {
	switch {
	case errors.Is(err, token.ErrKeyMissing):
		return refused(fmt.Sprintf("no object of the token has the CKA_ID %x", ckaID), "see which there are: pkcs11kms doctor", err)
	case errors.Is(err, token.ErrKeyAmbiguous):
		return refused(fmt.Sprintf("several objects of the token have the CKA_ID %x", ckaID),
			"destroy them with the tools of the token", err)
	}
	return err
}
