package test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// assertAudited holds that the audit log is whole, whoever was killed while writing to it, and that each key that was acknowledged has the
// intent and the outcome of its making. It returns how many chains there are.
func (d *stateDir) assertAudited(t *testing.T, acknowledged []string) (chains int) {
	t.Helper()
	dir := statedir.AuditDir(d.path)
	v, err := audit.VerifyDir(dir, audit.Known{})
	require.NoError(t, err)
	assert.Empty(t, v.Problems)
	intents, made := map[string]bool{}, map[string]string{}
	require.NoError(t, audit.Scan(dir, func(line []byte) error {
		var record struct {
			EventName, EventType, RequestID string
			ErrorCode                       *string
			ResponseElements                struct{ KeyMetadata struct{ KeyID string } }
		}
		if err := json.Unmarshal(line, &record); err != nil || record.EventName != "CreateKey" {
			return err
		}
		if record.EventType == audit.Intent.String() {
			intents[record.RequestID] = true
		} else if record.ErrorCode == nil {
			made[record.ResponseElements.KeyMetadata.KeyID] = record.RequestID
		}
		return nil
	}))
	for _, id := range acknowledged {
		if assert.Contains(t, made, id, "it was acknowledged") {
			assert.True(t, intents[made[id]], "and its intent recorded before")
		}
	}
	return len(v.Heads)
}
