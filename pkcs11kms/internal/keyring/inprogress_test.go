package keyring

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// Marks of keys that this process works on. A mark that has ended is forgotten.
func TestWorking(t *testing.T) {
	var w inProgress
	ref := keystore.KeyRef("r", "a", "i")
	require.False(t, w.has(ref))
	first, second := w.add(ref), w.add(ref)
	require.True(t, w.has(ref))
	first()
	require.True(t, w.has(ref), "another works on it still")
	second()
	require.Empty(t, w.refs)
	require.False(t, w.has(ref))

	done := w.add(ref)
	until := make(chan struct{})
	w.keep(ref, until)
	done()
	require.True(t, w.has(ref), "kept until the channel is closed")
	close(until)
	require.False(t, w.has(ref))
	require.Empty(t, w.refs)

	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				done := w.add(ref)
				assert.True(t, w.has(ref))
				done()
			}
		})
	}
	all.Wait()
	require.False(t, w.has(ref))
}
