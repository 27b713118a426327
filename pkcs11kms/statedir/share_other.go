//go:build unix && !linux

package statedir

import (
	"context"
	"net"
)

// ListenShared refuses: elsewhere than on Linux SO_REUSEPORT shares nothing out, or does not tell who shares.
func ListenShared(context.Context, string, string, string) (net.Listener, error) {
	return nil, setupError("servers can share a port on Linux only", "start one server, without --reuse-port", nil)
}
