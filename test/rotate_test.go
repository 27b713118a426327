package test

import (
	"io"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serveOnce has a server start, and seal the audit log at its end.
func (d *stateDir) serveOnce(t *testing.T) {
	t.Helper()
	cmd := d.command("serve", "--listen", "127.0.0.1:0", "--admin-listen", "off")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = io.ReadFull(out, make([]byte, 1)) // it prints when it is ready
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	_, err = io.Copy(io.Discard, out)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
}

// TestRotationsThatAreKilled: whatever step service-key rotate dies at, everything works as before, and the next one goes on with what it
// has left. A server that comes in between does so with the audit key.
func TestRotationsThatAreKilled(t *testing.T) {
	long(t)
	d := newStateDir(t)
	keyID := d.createKey(t)
	d.must(t, nil, "iam", "create-access-key")
	d.serveOnce(t)
	for _, kill := range [][2]string{
		{"access-keys", "object-made"}, {"access-keys", "next-key-made"},
		{"audit", "object-made"}, {"audit", "next-key-made"}, {"audit", "audit-handed-over"},
		{"seal", "object-made"}, {"seal", "next-key-made"}, {"seal", "seals-begun"}, {"seal", "records-sealed"}, {"seal", "seals-made"},
	} {
		purpose, step := kill[0], kill[1]
		t.Run(purpose+"/"+step, func(t *testing.T) {
			d.crash(t, step, "service-key", "rotate", purpose)
			d.assertUsable(t, keyID)
			d.must(t, nil, "iam", "create-access-key")
			if step == "next-key-made" {
				d.serveOnce(t)
			}
			require.NoError(t, answered(d.command("audit", "verify"), nil))
			require.NoError(t, answered(d.command("service-key", "rotate", purpose), nil))
			d.assertUsable(t, keyID)
			assert.Empty(t, unfinished(d.records(t)))
			assert.Empty(t, d.doctor(t).Unknown)
			require.NoError(t, answered(d.command("audit", "verify"), nil))
		})
	}
	d.serveOnce(t)
	require.NoError(t, answered(d.command("audit", "verify"), nil))
}
