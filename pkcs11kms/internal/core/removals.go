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
)

// removals returns what the keyring tells of the keys that it removes: an intent and an outcome for the audit log. A key that was never
// whole has an event of this service's own.
func (c *Core) removals(cfg keyring.Config, log audit.Writer) func(context.Context, keystore.Key) (func(error) error, error) {
	return func(ctx context.Context, key keystore.Key) (func(error) error, error) {
		e := audit.Event{Kind: audit.Intent, Service: "kms", Operation: deleteKey, Region: key.Region, Account: key.Account,
			RequestID: audit.NewID()}
		arn := "arn:" + cfg.Partition + ":kms:" + key.Region + ":" + key.Account + ":key/" + key.ID
		if key.Account == "" || key.State == keystore.Creating {
			e.Service, e.Operation = "pkcs11kms", removeHalfMade
		}
		if key.Account == "" && key.State == keystore.Deleting {
			e.Operation = removeService
		}
		e.Resource = arn
		e.Additional = map[string]any{"ckaId": key.CKAID.String()}
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
}
