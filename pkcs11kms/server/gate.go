package server

import (
	"container/list"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/fairshare"
)

// gate is a listener that never holds more descriptors than its limits say, and never lets those who have proved nothing
// keep others out: it accepts every connection, and closes another one where there is no room. Waiting connections make room
// for each other, the oldest of the peer with the most first; admitted ones that are idle make room for newly admitted ones.
type gate struct {
	net.Listener
	waiting *fairshare.Pool
	notes   *gateNotes

	draining atomic.Bool   // the server is about to end
	over     chan struct{} // closed when Accept has returned the last connection
	isOver   sync.Once

	mu       sync.Mutex // guards what follows
	limit    int
	admitted list.List // of *connection, those that were looked at longest ago first
	elements map[*connection]*list.Element
}

// gateLimits are numbers of connections.
type gateLimits struct{ waiting, admitted int }

func newGate(listener net.Listener, limits gateLimits, notes *gateNotes) *gate {
	return &gate{Listener: listener, waiting: fairshare.New(limits.waiting), notes: notes, limit: max(limits.admitted, 1),
		elements: map[*connection]*list.Element{}, over: make(chan struct{})}
}

// Accept waits for a connection. When it returns, the connections that had to give way are closed and their descriptors
// free: closing waits for that.
func (g *gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		if errors.Is(err, net.ErrClosed) {
			g.isOver.Do(func() { close(g.over) })
		}
		return nil, err
	}
	c := &connection{Conn: conn, gate: g, peer: fairshare.PeerOf(conn.RemoteAddr().String())}
	c.share = g.waiting.Join(c.peer, 1, func() { g.closeFor(c, closedUnproved) })
	return c, nil
}

// closeFor closes a connection to make room for another.
func (g *gate) closeFor(c *connection, reason string) {
	_ = c.Conn.Close() // the client learns of it by the end of the connection
	g.notes.note(reason, c)
}

// admit takes a connection from the waiting to the admitted ones.
func (g *gate) admit(c *connection) error {
	if c.state.Load() != waiting {
		return errNoConnection
	}
	victim, ok := g.enter(c)
	if victim != nil {
		g.closeFor(victim, closedIdle)
	}
	if !ok {
		g.notes.note(refusedBusy, c)
		return errNoConnection
	}
	if !c.share.Leave() || !c.state.CompareAndSwap(waiting, busy) {
		g.drop(c) // it was closed meanwhile
		return errNoConnection
	}
	return nil
}

// enter notes a connection as admitted and returns the one that has to be closed for it. It fails when all are busy.
func (g *gate) enter(c *connection) (victim *connection, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.admitted.Len() >= g.limit {
		if victim = g.longestIdle(); victim == nil {
			return nil, false
		}
	}
	g.elements[c] = g.admitted.PushBack(c)
	return victim, true
}

// longestIdle takes out a connection that was not used since it was last looked at, nearly the one that is idle longest, at
// a cost that does not grow with their number. It returns nil when all are busy. Called with g.mu held.
func (g *gate) longestIdle() *connection {
	for range 2 * g.admitted.Len() {
		front := g.admitted.Front()
		c := front.Value.(*connection)
		if !c.used.Swap(false) && c.state.CompareAndSwap(idle, closed) {
			g.admitted.Remove(front)
			delete(g.elements, c)
			return c
		}
		g.admitted.MoveToBack(front)
	}
	return nil
}

// drop takes a connection out of the admitted ones.
func (g *gate) drop(c *connection) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if element, found := g.elements[c]; found {
		g.admitted.Remove(element)
		delete(g.elements, c)
	}
}

// leave forgets a connection whose descriptor is free.
func (g *gate) leave(c *connection) {
	c.state.Store(closed)
	c.share.Leave()
	g.drop(c)
}

// count tells how many connections there are. One that is just being admitted is counted twice.
func (g *gate) count() gateLimits {
	g.mu.Lock()
	defer g.mu.Unlock()
	return gateLimits{g.waiting.Used(), g.admitted.Len()}
}
