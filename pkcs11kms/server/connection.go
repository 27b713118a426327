package server

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/fairshare"
)

// connection is one that a gate counts. It waits until a request on it is admitted, and is idle or busy after. While it is
// busy, nobody but its client, or the end of the server, closes it: what was begun is answered.
type connection struct {
	net.Conn
	gate  *gate
	peer  fairshare.Peer
	share *fairshare.Share // of the waiting ones
	state atomic.Int32
	used  atomic.Bool // since the gate last looked for one to close
	ended sync.Once
}

const (
	waiting int32 = iota
	idle
	busy
	closed
)

// admit marks the connection as busy with a request that may be answered: on the API one whose signature is right. A
// connection that was closed, or finds all places taken by requests under way, is refused. It may be called on nil: programs
// with listeners of their own limit connections themselves.
func (c *connection) admit() error {
	if c == nil || c.state.CompareAndSwap(idle, busy) {
		return nil
	}
	return c.gate.admit(c)
}

// proved reports whether a request on the connection was admitted before.
func (c *connection) proved() bool { return c != nil && c.state.Load() != waiting }

// release marks the end of the request, however it ended.
func (c *connection) release() {
	if c == nil {
		return
	}
	c.used.Store(true)
	c.state.CompareAndSwap(busy, idle)
}

// Close closes the connection and, once the descriptor is free, gives its place back.
func (c *connection) Close() error {
	err := c.Conn.Close()
	c.ended.Do(func() { c.gate.leave(c) })
	return err
}

// connectionKey is the key of a *connection in the contexts of requests on it.
type connectionKey struct{}

// withConnection is an http.Server's ConnContext.
func withConnection(ctx context.Context, conn net.Conn) context.Context {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	if c, ok := conn.(*connection); ok {
		return context.WithValue(ctx, connectionKey{}, c)
	}
	return ctx
}

// connectionIn returns the connection of a request, or nil where no gate counts it.
func connectionIn(ctx context.Context) *connection {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	return c
}
