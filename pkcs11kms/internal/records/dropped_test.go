package records_test

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// scarce counts how often it was dropped.
type scarce struct{ dropped *atomic.Int64 }

func (s scarce) Dropped() { s.dropped.Add(1) }

// A value is told, once, when it is dropped: by a change of this process, by one of another, and with all others.
func TestDroppedValuesAreTold(t *testing.T) {
	c, store, other := cached(t)
	filled(t, c, store)
	hold := func(name string) *atomic.Int64 {
		var dropped atomic.Int64
		_, err := records.Fresh(t.Context(), c, ref(name), func(keystore.Record) (scarce, error) { return scarce{&dropped}, nil })
		require.NoError(t, err)
		return &dropped
	}
	a, b := hold("a"), hold("b")
	_, version, err := records.ReadCounter(t.Context(), store, "", "", "a")
	require.NoError(t, err)
	_, err = c.Commit(t.Context(), keystore.Counter{Name: "a", N: 9}.Put(version))
	require.NoError(t, err)
	require.Equal(t, int64(1), a.Load())
	require.Zero(t, b.Load())
	set(t, other, "b", 9)
	confirm(t, c)
	require.Equal(t, int64(1), b.Load())
	b = hold("b")
	c.Drop()
	require.Equal(t, int64(1), b.Load())
	require.Equal(t, int64(1), a.Load())
}
