package token

import (
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// A module gives a session's handle out again when it has closed the session, which it does by itself when the token is taken out or
// another part of the process closes all sessions. So a handle may have become another session's without a word: nothing that was begun
// by it then counts, and closing it would end the other.

// claim is a session's right to its handle.
type claim struct{ lost atomic.Bool }

// claims tells which session of ours has a handle, for all Tokens of one module. The zero value is ready.
type claims struct {
	mu       sync.Mutex // guards byHandle
	byHandle map[pkcs11.SessionHandle]*claim
}

// make notes that the module has just given a handle out. Whoever had it before has lost it, before it is used anew.
func (all *claims) make(h pkcs11.SessionHandle) *claim {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.byHandle == nil {
		all.byHandle = map[pkcs11.SessionHandle]*claim{}
	}
	if before := all.byHandle[h]; before != nil {
		before.lost.Store(true)
	}
	c := &claim{}
	all.byHandle[h] = c
	return c
}

// release ends a claim, and reports whether it was still good.
func (all *claims) release(h pkcs11.SessionHandle, c *claim) bool {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.byHandle[h] != c {
		return false
	}
	delete(all.byHandle, h)
	return true
}

// restore takes a release back, unless the handle is another session's by now.
func (all *claims) restore(h pkcs11.SessionHandle, c *claim) bool {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.byHandle == nil || all.byHandle[h] != nil {
		return false
	}
	all.byHandle[h] = c
	return true
}

// forget ends all: the module was finalized, which has closed every session.
func (all *claims) forget() {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.byHandle = nil
}
