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
)

// removals returns what the keyring tells of the keys that it removes: an intent and an outcome for the audit log. A key that was never
// whole has an event of this service's own.
func (c *Core) removals(cfg keyring.Config, log audit.Writer) func(context.Context, keystore.Key) (func(error) error, error) {
	return func(ctx context.Context, key keystore.Key) (func(error) error, error) {
		service, operation := "kms", deleteKey
		if key.Account == "" || key.State == keystore.Creating {
			service, operation = "pkcs11kms", removeHalfMade
		}
		if key.Account == "" && key.State == keystore.Deleting {
			operation = removeService
		}
		return removal(ctx, cfg, log, key, service, operation)
	}
}

// grantRemovals is removals for the grants on a key. There may be very many, so each batch has an intent and an outcome.
func (c *Core) grantRemovals(
	cfg keyring.Config, log audit.Writer,
) func(context.Context, keystore.Key) (context.Context, func(error) error, error) {
	return func(ctx context.Context, key keystore.Key) (context.Context, func(error) error, error) {
		ctx = audit.CollectBatch(ctx)
		ended, err := removal(ctx, cfg, log, key, "pkcs11kms", removeGrants)
		return ctx, ended, err
	}
}

// removal tells the log of a removal that begins, and returns what tells it of the end.
func removal(
	ctx context.Context, cfg keyring.Config, log audit.Writer, key keystore.Key, service, operation string,
) (func(error) error, error) {
	arn := "arn:" + cfg.Partition + ":kms:" + key.Region + ":" + key.Account + ":key/" + key.ID
	e := audit.Event{Kind: audit.Intent, Service: service, Operation: operation, Region: key.Region, Account: key.Account,
		RequestID: audit.NewID(), Resource: arn, Additional: map[string]any{"ckaId": key.CKAID.String()}}
	if err := log.Intend(ctx, e); err != nil {
		return nil, err
	}
	return func(err error) error {
		if errors.Is(err, keystore.ErrConflict) {
			e.Additional["outcome"] = "another process was faster"
		}
		e.Kind, e.Intended, e.Err, e.Wrote = audit.ServiceEvent, true, err, audit.WritesOf(ctx)
		e.Output, e.Responded = map[string]any{"keyId": arn}, []string{"keyId"}
		return log.Record(ctx, e)
	}, nil
}
