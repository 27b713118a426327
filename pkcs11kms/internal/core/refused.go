package core

import (
	"context"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

// refuseRecord is the event of a record that is not what this program has written there.
const refuseRecord = "RefuseRecord"

// refused returns what tells of such a record, once: the log and the audit log.
func (c *Core) refused(log audit.Writer) func(*sealed.Error) {
	return func(refused *sealed.Error) {
		c.Log.Error("a record of the store is refused: see pkcs11kms doctor", "kind", refused.Ref.Kind, "region", refused.Ref.Region,
			"account", refused.Ref.Account, "id", refused.Ref.ID, "error", refused)
		e := audit.Event{Kind: audit.ServiceEvent, Service: "pkcs11kms", Operation: refuseRecord, Region: refused.Ref.Region,
			Account: refused.Ref.Account, Err: refused, Additional: map[string]any{
				"recordKind": string(refused.Ref.Kind), "recordId": refused.Ref.ID, "reason": refused.Unwrap().Error()}}
		_ = log.Record(context.Background(), e) // its failure is told by its health
	}
}
