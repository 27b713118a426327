package core

import (
	"context"
	"errors"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// The events of what happens to keys without a call. AWS KMS has the first; a half-made key is our own matter.
const (
	deleteKey      = "DeleteKey"
	removeHalfMade = "RemoveUnfinishedKey"
	removeService  = "RemoveServiceKey" // one that was retired, or never whole
	removeGrants   = "RemoveGrants"     // a batch of those on a key that is being deleted

	deleteExpired  = "DeleteExpiredKeyMaterial" // of AWS KMS
	removeMaterial = "RemoveKeyMaterial"        // the object of what has expired, or of an import or a deletion that was cut off
)

// removing is keyring.Config.Removing, and RemovingGrants.
type removing = func(context.Context, keystore.Key) (context.Context, func(error) error, error)

// removals returns what the keyring tells of the keys that it removes: an intent and an outcome for the audit log, which tells what was
// written. A key that was never whole has an event of this service's own.
func (c *Core) removals(cfg keyring.Config, log audit.Writer) removing {
	return func(ctx context.Context, key keystore.Key) (context.Context, func(error) error, error) {
		service, operation := "kms", deleteKey
		if key.Account == "" || key.State == keystore.Creating {
			service, operation = "pkcs11kms", removeHalfMade
		}
		if key.Account == "" && (key.State == keystore.Deleting || key.State == keystore.PendingDeletion) {
			operation = removeService
		}
		return removal(ctx, cfg, log, key, service, operation)
	}
}

// endings is removals for imported key material.
func (c *Core) endings(cfg keyring.Config, log audit.Writer) func(
	context.Context, keystore.Key, bool) (context.Context, func(error) error, error) {
	return func(ctx context.Context, key keystore.Key, expires bool) (context.Context, func(error) error, error) {
		service, operation := "pkcs11kms", removeMaterial
		if expires {
			service, operation = "kms", deleteExpired
		}
		return removal(ctx, cfg, log, key, service, operation)
	}
}

// grantRemovals is removals for the grants on a key. There may be very many, so each batch has an intent and an outcome.
func (c *Core) grantRemovals(cfg keyring.Config, log audit.Writer) removing {
	return func(ctx context.Context, key keystore.Key) (context.Context, func(error) error, error) {
		return removal(ctx, cfg, log, key, "pkcs11kms", removeGrants)
	}
}

// removal tells the log of a removal that begins, and returns what tells it of the end, and of what is written under noting.
func removal(
	ctx context.Context, cfg keyring.Config, log audit.Writer, key keystore.Key, service, operation string,
) (noting context.Context, ended func(error) error, err error) {
	arn := "arn:" + cfg.Partition + ":kms:" + key.Region + ":" + key.Account + ":key/" + key.ID
	e := audit.Event{Kind: audit.Intent, Service: service, Operation: operation, Region: key.Region, Account: key.Account,
		RequestID: audit.NewID(), Resource: arn, Additional: map[string]any{"ckaId": key.CKAID.String()}}
	if err := log.Intend(ctx, e); err != nil {
		return nil, nil, err
	}
	noting = audit.CollectWrites(ctx)
	return noting, func(err error) error {
		if errors.Is(err, keystore.ErrConflict) {
			e.Additional["outcome"] = "another process was faster"
		}
		e.Kind, e.Intended, e.Err, e.Wrote = audit.ServiceEvent, true, err, audit.WritesOf(noting)
		e.Output, e.Responded = map[string]any{"keyId": arn}, []string{"keyId"}
		return log.Record(noting, e)
	}, nil
}
