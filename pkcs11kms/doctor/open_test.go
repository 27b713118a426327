package doctor

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// TestWhatIsOpenedIsClosed: whatever the outcome, the store that was opened for an examination or a retirement is closed.
func TestWhatIsOpenedIsClosed(t *testing.T) {
	cfg, _ := twoRegions(t)
	var opened keystore.Store
	open := func(ctx context.Context) (_ keystore.Store, err error) {
		opened, err = sqlite.Open(ctx, cfg.StorePath, sqlite.Options{})
		return opened, err
	}
	closed := func(what string) {
		t.Helper()
		require.NotNil(t, opened, what)
		_, err := opened.Get(t.Context(), keystore.RegionRef(testRegion))
		require.ErrorIs(t, err, keystore.ErrClosed, what)
		opened = nil
	}
	require.True(t, Examine(t.Context(), cfg.Config, "store", open).OK())
	closed("after a good report")
	hiding := cfg.Config
	hiding.Regions = map[string]pkcs11kms.Region{testRegion: cfg.Regions[testRegion]}
	require.False(t, Examine(t.Context(), hiding, "store", open).OK())
	closed("after a bad report")
	for _, answer := range []bool{false, true, true} { // not agreed, done, and nothing is left to do
		_ = RetireRegion(t.Context(), hiding, open, otherRegion, func(RetiredRegion) (bool, error) { return answer, nil })
		closed("after a retirement")
	}
	require.ErrorContains(t, RetireRegion(t.Context(), hiding, open, otherRegion, nil), "was retired on")
}
