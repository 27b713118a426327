package pkcs11kms

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/guard"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// What documents promise stands here in their words: a test that takes its expectation from the constant holds nothing.
func TestBoundsAreThoseOfTheDocuments(t *testing.T) {
	for what, bound := range map[string][2]time.Duration{
		"another process's change is seen (Client.DisableKey)": {time.Second, records.MaxAge},
		"the store is looked at":                               {250 * time.Millisecond, records.PollInterval},
		"a look at the store may take":                         {2 * time.Second, records.ConfirmTimeout},
		"a stream looks at its permission":                     {500 * time.Millisecond, guard.RecheckInterval},
		"a call may take (Config.CallTimeout)":                 {5 * time.Second, DefaultCallTimeout},
	} {
		require.Equal(t, bound[0], bound[1], what)
	}
	quotas, err := Quotas{}.complete()
	require.NoError(t, err)
	require.Equal(t, Quotas{Keys: 100_000, AliasesPerKey: 50, TagsPerKey: 50, GrantsPerKey: 50_000, PolicyBytes: 32_768}, quotas,
		"AWS KMS, Resource quotas")
	require.Equal(t, 32, DefaultMaxSessions)
	require.Equal(t, 62, MaxAliasesPerKey, "a key and its aliases are deleted in one commit")
}
