package server

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// drainLook is how often it is looked whether connections are left.
const drainLook = 10 * time.Millisecond

// drain closes the listener, and lets connections go on for so long at most; each answer is the last one of its connection.
func (g *gate) drain(wait time.Duration) error {
	if wait <= 0 {
		return nil // Shutdown closes the listener
	}
	g.draining.Store(true)
	err := g.Close()
	end := time.After(wait)
	select {
	case <-g.over: // what the system had accepted is counted, too
	case <-end:
		return err
	}
	look := time.NewTicker(drainLook)
	defer look.Stop()
	for g.count() != (gateLimits{}) {
		select {
		case <-look.C:
		case <-end:
			return err
		}
	}
	return err
}

// ends tells whether the connection is to end with the answer that is being written, since the server is about to. It may be called on nil.
func (c *connection) ends() bool { return c != nil && c.gate.draining.Load() }

// leavingNone is a TCP listener whose Close accepts what the system has accepted already: it would be reset. Accept returns it before it
// fails. What comes between that and the close itself, or whose handshake is under way, is lost all the same.
type leavingNone struct {
	net.Listener
	raw    syscall.RawConn
	closed chan struct{} // closed when left is complete
	once   sync.Once
	mu     sync.Mutex // guards left
	left   []net.Conn
	err    error // of Close
}

// leaveNone returns a listener that leaves none of its connections behind, where that is possible.
func leaveNone(listener net.Listener) net.Listener {
	if conn, ok := listener.(syscall.Conn); ok {
		if raw, err := conn.SyscallConn(); err == nil {
			return &leavingNone{Listener: listener, raw: raw, closed: make(chan struct{})}
		}
	}
	return listener
}

func (l *leavingNone) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil || !errors.Is(err, net.ErrClosed) {
		return conn, err
	}
	<-l.closed
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.left) == 0 {
		return nil, err
	}
	conn = l.left[0]
	l.left = l.left[1:]
	return conn, nil
}

// Close may be called more than once.
func (l *leavingNone) Close() error {
	l.once.Do(func() {
		defer close(l.closed)
		var accepted []int
		_ = l.raw.Control(func(fd uintptr) { // fails when the listener was closed
			for conn, err := acceptOne(int(fd)); err == nil; conn, err = acceptOne(int(fd)) {
				accepted = append(accepted, conn)
			}
		})
		l.err = l.Listener.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, fd := range accepted {
			file := os.NewFile(uintptr(fd), "")
			if conn, err := net.FileConn(file); err == nil {
				l.left = append(l.left, conn)
			}
			_ = file.Close() // FileConn has made a descriptor of its own
		}
	})
	return l.err
}

// acceptOne accepts a connection that is there. It does not wait for one.
func acceptOne(listener int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	for {
		fd, _, err := syscall.Accept(listener)
		if errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.ECONNABORTED) {
			continue
		}
		if err == nil {
			syscall.CloseOnExec(fd)
		}
		return fd, err
	}
}
