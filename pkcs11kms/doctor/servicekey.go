package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

// ServiceKey is a key of this program's own.
type ServiceKey struct {
	Purpose string    `json:"Purpose"` // one of ServicePurposes
	Epoch   uint32    `json:"Epoch"`   // its number among those of its purpose
	Present bool      `json:"Present"` // it makes what is new; what an earlier one has made is good still
	Region  string    `json:"Region"`
	CKAID   string    `json:"CkaId"` // hexadecimal
	KeySpec string    `json:"KeySpec"`
	Created time.Time `json:"CreationDate"`

	AccessKeys *int `json:"AccessKeys,omitempty"` // whose secrets it makes
}

// servicePurpose says how the service keys of a purpose are followed by others.
type servicePurpose struct {
	first  string // the id of the first
	rotate func(ctx context.Context, inside *core.Core, progress func(int)) (uint32, error)
	// free returns an error where the key of an epoch that was followed is still needed; nil: such keys are never given up.
	free func(ctx context.Context, inside *core.Core, epoch uint32) error
}

var servicePurposes = map[string]servicePurpose{
	"access-keys": {keyring.SecretsKey, rotateSecrets, secretsFree},
	"audit":       {keyring.AuditKey, rotateAudit, nil},
	"seal":        {keyring.SealKey, rotateSeals, sealFree},
}

func rotateAudit(ctx context.Context, inside *core.Core, _ func(int)) (uint32, error) {
	return inside.RotateAudit(ctx)
}

func rotateSeals(ctx context.Context, inside *core.Core, progress func(int)) (uint32, error) {
	return inside.Keys.RotateSeals(ctx, progress)
}

// sealFree refuses while the store names the key of an epoch for its seals.
func sealFree(ctx context.Context, inside *core.Core, epoch uint32) error {
	epochs, err := inside.Keys.Epochs(ctx, keyring.SealKey)
	if err != nil {
		return err
	}
	if _, err := inside.Store.LookAgain(ctx); err != nil {
		return err
	}
	root, there := inside.Store.Root()
	for _, e := range epochs {
		used := bytes.Equal(e.Record.CKAID, root.CKAID) || root.Previous != nil && bytes.Equal(e.Record.CKAID, root.Previous.CKAID)
		if e.Epoch == epoch && there && used {
			return refused(fmt.Sprintf("records of the store are sealed by the service key number %d for seal", epoch),
				"seal them by another one: pkcs11kms service-key rotate seal", nil)
		}
	}
	return nil
}

func rotateSecrets(ctx context.Context, inside *core.Core, _ func(int)) (uint32, error) {
	epoch, err := inside.Keys.NextSecretsKey(ctx)
	if errors.Is(err, keystore.ErrNotFound) {
		err = core.ErrNoServiceKey
	}
	return epoch, err
}

// secretsFree refuses while there are access keys whose secrets are made by the key of an epoch.
func secretsFree(ctx context.Context, inside *core.Core, epoch uint32) error {
	made, err := accessKeysByEpoch(ctx, inside.Store)
	if err != nil || len(made[epoch]) == 0 {
		return err
	}
	var ids []string
	for _, key := range made[epoch] {
		ids = append(ids, key.ID)
	}
	slices.Sort(ids)
	shown := strings.Join(ids[:min(len(ids), mostIDs)], ", ")
	if len(ids) > mostIDs {
		shown += fmt.Sprintf(" and %d more", len(ids)-mostIDs)
	}
	return refused(fmt.Sprintf("the service key number %d for access-keys makes the secrets of access keys that there are: %s", epoch, shown),
		"make new ones in their place, and delete these: pkcs11kms iam create-access-key, pkcs11kms iam delete-access-key", nil)
}

// mostIDs bounds how many ids an error names.
const mostIDs = 20

// ServicePurposes are what service keys can be rotated for.
func ServicePurposes() []string { return slices.Sorted(maps.Keys(servicePurposes)) }

// CheckServicePurpose refuses what is none of ServicePurposes.
func CheckServicePurpose(purpose string) error {
	if _, ok := servicePurposes[purpose]; !ok {
		return refused(fmt.Sprintf("there are no service keys for %q", purpose), "give one of "+strings.Join(ServicePurposes(), ", "), nil)
	}
	return nil
}

// ServiceKeys returns the service keys that can be rotated, the oldest of a purpose first. The client's caller needs the permission
// pkcs11kms:ListServiceKeys.
func ServiceKeys(ctx context.Context, c *pkcs11kms.Client) (keys []ServiceKey, err error) {
	err = pkcs11kms.Administer(ctx, c, ops.ListServiceKeys, nil, func(ctx context.Context, inside *core.Core, _ []keystore.Change) error {
		keys, err = serviceKeys(ctx, inside)
		return err
	})
	return keys, err
}

func serviceKeys(ctx context.Context, inside *core.Core) (keys []ServiceKey, err error) {
	made, err := accessKeysByEpoch(ctx, inside.Store)
	if err != nil {
		return nil, err
	}
	root, _ := inside.Store.Root()
	for _, purpose := range ServicePurposes() {
		epochs, err := inside.Keys.Epochs(ctx, servicePurposes[purpose].first)
		if err != nil {
			return nil, err
		}
		for i, e := range epochs {
			key := ServiceKey{Purpose: purpose, Epoch: e.Epoch, Present: i == len(epochs)-1, Region: e.Record.Region,
				CKAID: e.Record.CKAID.String(), KeySpec: e.Record.Spec, Created: e.Record.Created}
			if n := len(made[e.Epoch]); servicePurposes[purpose].first == keyring.SecretsKey {
				key.AccessKeys = &n
			}
			if servicePurposes[purpose].first == keyring.SealKey {
				key.Present = bytes.Equal(e.Record.CKAID, root.CKAID)
			}
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// RotateServiceKey has the present service key of a purpose followed by another one, which it makes, beside all processes that use the
// store; they use it at once. A rotation that was begun and not finished is finished. It returns the number of the new key. progress is
// told from time to time how many records are done, where there are such. The client's caller needs the permission
// pkcs11kms:RotateServiceKey.
func RotateServiceKey(ctx context.Context, c *pkcs11kms.Client, purpose string, progress func(int)) (epoch uint32, err error) {
	if err := CheckServicePurpose(purpose); err != nil {
		return 0, err
	}
	run := func(ctx context.Context, inside *core.Core, precondition []keystore.Change) error {
		if err := holds(ctx, inside, precondition); err != nil {
			return err
		}
		epoch, err = servicePurposes[purpose].rotate(ctx, inside, progress)
		return whyNotRotated(purpose, err)
	}
	err = pkcs11kms.Administer(ctx, c, ops.RotateServiceKey, map[string]any{"purpose": purpose}, run)
	return epoch, err
}

// whyNotRotated says what to do about an error of a rotation.
func whyNotRotated(purpose string, err error) error {
	var broken *sealed.Error
	switch {
	case errors.Is(err, core.ErrNotSealed):
		return refused("the audit log is not sealed, and so has no key", "config.yaml has audit.file: off", err)
	case errors.Is(err, keyring.ErrNoSeals):
		return refused("the records of the store have no seals", "seal them: "+keyring.SealCommand, err)
	case errors.As(err, &broken):
		return refused(fmt.Sprintf("not all records could be sealed anew: %v", err),
			"what is done stays, and seals of before count still. Restore the store from a backup; or see "+
				"what it holds, and\nhave all of it sealed anew as it is: "+keyring.ResealCommand, err)
	case errors.Is(err, core.ErrNoServiceKey):
		return refused(fmt.Sprintf("there is no service key for %s yet, so there is nothing to rotate", purpose),
			"it is made when it is needed first", err)
	}
	return err
}

// RetireServiceKey destroys the service key of a purpose with a number, which was followed by another one and which nothing needs any more:
// else the error is a *RefusedError that tells what does. The client's caller needs the permission pkcs11kms:RetireServiceKey.
func RetireServiceKey(ctx context.Context, c *pkcs11kms.Client, purpose string, epoch uint32) error {
	if err := CheckServicePurpose(purpose); err != nil {
		return err
	}
	of := servicePurposes[purpose]
	if of.free == nil {
		return refused("the keys of the audit log's seals are kept: their records have the public keys that verify what they have sealed",
			"nothing needs to be done: what they sign now is refused", nil)
	}
	in := map[string]any{"purpose": purpose, "epoch": epoch}
	return pkcs11kms.Administer(ctx, c, ops.RetireServiceKey, in, func(ctx context.Context, inside *core.Core, bound []keystore.Change) error {
		if err := holds(ctx, inside, bound); err != nil {
			return err
		}
		err := inside.Keys.RetireService(ctx, of.first, epoch, func(ctx context.Context) error { return of.free(ctx, inside, epoch) })
		if errors.Is(err, keyring.ErrPresent) {
			err = refused(fmt.Sprintf("there is no service key for %s with the number %d that was followed by another one", purpose, epoch),
				"see which there are: pkcs11kms service-key list", err)
		}
		return err
	})
}

// holds refuses with keystore.ErrConflict where a precondition does not hold.
func holds(ctx context.Context, inside *core.Core, precondition []keystore.Change) error {
	if len(precondition) == 0 {
		return nil
	}
	_, err := inside.Cache.Commit(ctx, precondition...)
	return err
}
