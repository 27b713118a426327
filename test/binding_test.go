package test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/softhsm"
)

// newUnboundDir is a state directory that no command but init has used.
func newUnboundDir(t *testing.T) *stateDir {
	t.Helper()
	tok := softhsm.NewToken(t)
	d := &stateDir{binary: executable(t, realBinary), path: filepath.Join(t.TempDir(), "state"), token: tok}
	d.must(t, nil, "init", "--token", tok.URI(tok.PINFile))
	require.Empty(t, raw(t, tok, rawJob{}).Objects, "init makes nothing in a token")
	return d
}

// assertBound holds that the region is bound by the one binding key that there is, and that the token has just what records name.
func (d *stateDir) assertBound(t *testing.T) {
	t.Helper()
	d.assertWhole(t)
	bound := d.boundTo(t).Binding
	require.NotNil(t, bound)
	var found []keystore.Key
	for _, k := range d.allRecords(t) {
		if k.Account == "" {
			found = append(found, k)
		}
	}
	require.Len(t, found, 1)
	assert.Equal(t, bound.CKAID, found[0].CKAID)
	object, there := raw(t, d.token, rawJob{}).find(bound.CKAID.String())
	assert.True(t, there)
	assert.Equal(t, "pkcs11kms/service/binding", object.Label)
	assert.False(t, object.Extractable)
	assert.True(t, object.Sensitive)
}

// Processes that open a region for the first time at once make one binding key, and none of them fails.
func TestFirstCommandsBindOnce(t *testing.T) {
	d := newUnboundDir(t)
	var cmds []*exec.Cmd
	for range 6 {
		cmds = append(cmds, d.command("list-keys"))
	}
	var group errgroup.Group
	for _, cmd := range cmds {
		group.Go(func() error { return answered(cmd, nil) })
	}
	require.NoError(t, group.Wait())
	d.assertBound(t)
	assert.Empty(t, d.doctor(t).Unknown)
}

// Whatever step a process dies at that makes the binding key, the next command makes it whole, and leaves no object that no record names.
func TestBindingKilledAtEachStep(t *testing.T) {
	for _, step := range []string{"record-written", "object-made", "flipped"} {
		t.Run(step, func(t *testing.T) {
			d := newUnboundDir(t)
			d.crash(t, step)
			require.Nil(t, d.boundTo(t).Binding)
			d.must(t, nil, "list-keys")
			d.assertBound(t)
			d.must(t, nil, "list-keys")
			d.assertBound(t)
		})
	}
}
