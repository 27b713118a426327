package token

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

// A key that is used again and again is copied into a session object (C_CopyObject with CKA_TOKEN false), which is used in its place:
// SoftHSM reads the file of a token object anew for each C_SignInit, and NSS asks its database (measured: 1.8 and 107 times as slow). The
// copies belong to the session that stays open, so that they are gone with the connection. That there is a copy gives no right: who may
// use the key, and whether it is there still, is asked as without one (see confirm).
//
// Copies are made only where a stale handle is known to be an error. Elsewhere the handle of a copy that has gone with its session could be
// another key's, and what has the handle would have to be read after each use, which costs more than a copy saves.

// maxCopies bounds the copies in a token, whose memory for session objects is its own.
const maxCopies = 1024

// copyIdle is how long a copy must not have been used to make room for another key's.
const copyIdle = 10 * time.Second

// copied is the copy of a key.
type copied struct {
	object pkcs11.ObjectHandle
	// uses counts those who use the copy, and the key that has it. Whoever takes the last one away destroys it: its handle may be given
	// out again then.
	uses atomic.Int64
}

// take notes one more use, unless the copy is about to be destroyed.
func (c *copied) take() bool {
	for {
		n := c.uses.Load()
		if n == 0 {
			return false
		}
		if c.uses.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// copies are those of one Token.
type copies struct {
	refused atomic.Bool // the token makes none that are as well guarded as the key
	most    int
	idle    time.Duration // see copyIdle

	mu       sync.Mutex              // guards the rest
	of       map[*keyHandle]struct{} // which have a copy
	unused   []unusedCopy            // to be destroyed
	sweeping bool
}

// unusedCopy is one that nobody uses any more.
type unusedCopy struct {
	object     pkcs11.ObjectHandle
	generation uint64
}

// onCopy runs use with the copy of the key, if there is one or can be one, else with the key itself. use must be safe to repeat.
func (s *session) onCopy(n *named, h *keyHandle, use func(pkcs11.ObjectHandle) error) error {
	c := h.copy.Load()
	if c == nil {
		s.makeCopy(n, h)
		c = h.copy.Load()
	}
	if c == nil || !c.take() {
		return use(h.object)
	}
	err := use(c.object)
	e, ok := errors.AsType[*Error](err)
	useless := ok && e.Func == "C_SignInit" && (e.StaleHandle() || e.refusesKind())
	if useless && h.copy.CompareAndSwap(c, nil) { // stale: it has gone with its session
		s.token.copies.remove(h)
		h.copying.Store(!e.StaleHandle()) // which can be made anew
		c.uses.Add(-1)
	}
	if c.uses.Add(-1) == 0 && s.generation == s.token.generation.Load() && (!ok || !e.StaleHandle()) {
		_ = s.token.c.DestroyObject(s.handle, c.object) // at the latest it goes with its session
	}
	if !useless || s.abandoned() {
		return err
	}
	return use(h.object)
}

// makeCopy copies a key that is used for the second time or later. Whatever comes of it, the key itself can be used.
func (s *session) makeCopy(n *named, h *keyHandle) {
	t := s.token
	if !t.copiesKeys() || h.confirmed.Load() == 0 || !h.copying.CompareAndSwap(false, true) {
		return
	}
	if !t.keeper.busy.tryTake() {
		h.copying.Store(false)
		return
	}
	defer t.keeper.release()
	owner := t.keeper.session
	if !owner.open || owner.generation != h.generation || !t.copies.room(t) {
		h.copying.Store(false)
		return
	}
	object, err := t.c.CopyObject(owner.handle, h.object, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)})
	if err = wrapRV("C_CopyObject", err); err != nil {
		if refusesKind(err) || isRV(err, pkcs11.CKR_ACTION_PROHIBITED, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_ATTRIBUTE_READ_ONLY) {
			t.refuseCopies(err)
		}
		return // to be tried again when the key was looked for anew
	}
	if err := s.isCopy(n, object); err != nil {
		_ = t.c.DestroyObject(owner.handle, object)
		t.refuseCopies(err)
		return
	}
	c := &copied{object: object}
	c.uses.Store(1)
	t.copies.add(h)
	h.copy.Store(c)
	if n.handle.Load() != h || t.generation.Load() != h.generation { // it was forgotten meanwhile
		t.dropCopy(h)
	}
}

// copiesKeys reports whether keys are copied.
func (t *Token) copiesKeys() bool {
	return !t.cfg.NoCopies && !t.copies.refused.Load() && t.facts().quirk.staleHandlesErr
}

// refuseCopies makes no more of them.
func (t *Token) refuseCopies(why error) {
	if !t.copies.refused.Swap(true) {
		t.log.Info("the token makes no session copies of its keys, so each use is of the key itself", "token", t.name(), "reason", why)
	}
}

// isCopy makes sure that the object is the key's copy, and as well guarded.
func (s *session) isCopy(n *named, object pkcs11.ObjectHandle) error {
	values, err := s.attributes(object, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, nil), pkcs11.NewAttribute(pkcs11.CKA_ID, nil), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, nil),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, nil), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, nil)})
	if err != nil {
		return err
	}
	if len(values) != 5 || ulong(values[0].Value) != n.class || !bytes.Equal(values[1].Value, n.id) {
		return fmt.Errorf("copying a key: %w: the copy is another object", ErrMalformed)
	}
	if truth(values[2].Value) || !truth(values[3].Value) || truth(values[4].Value) {
		return fmt.Errorf("copying a key: %w: the copy is not guarded as the key is", ErrMalformed)
	}
	return nil
}

// dropCopy ends the use of a key's copy by new calls.
func (t *Token) dropCopy(h *keyHandle) {
	c := h.copy.Swap(nil)
	if c == nil {
		return
	}
	t.copies.remove(h)
	h.copying.Store(false)
	if c.uses.Add(-1) == 0 {
		t.destroyCopy(unusedCopy{c.object, h.generation})
	}
}

// DropCopy ends the use of the session copy that the token has of the key, if it has one: what the key may be used for has changed, or it
// is used less than others.
func (n *named) DropCopy() {
	if h := n.handle.Load(); h != nil {
		n.token.dropCopy(h)
	}
}

// destroyCopy has a copy destroyed that nobody uses any more, soon, by a goroutine that ends when there is none left.
func (t *Token) destroyCopy(c unusedCopy) {
	if c.generation != t.generation.Load() || t.closing.Err() != nil {
		return // it has gone with its session
	}
	t.copies.mu.Lock()
	defer t.copies.mu.Unlock()
	t.copies.unused = append(t.copies.unused, c)
	if !t.copies.sweeping {
		t.copies.sweeping = true
		t.goroutines.Go(t.sweepCopies)
	}
}

// sweepCopies uses the session that stays open, whose copies they are: callers need those of the pool.
func (t *Token) sweepCopies() {
	for {
		unused := t.copies.takeUnused()
		if len(unused) == 0 {
			return
		}
		err := t.onKeeper(t.closing, t.timeout, &operation{name: "C_DestroyObject", goesOn: true, run: func(s *session, _ []byte) error {
			for _, c := range unused {
				if c.generation != s.generation {
					continue
				}
				err := wrapRV("C_DestroyObject", t.c.DestroyObject(s.handle, c.object))
				if err != nil && !isRV(err, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID) { // else it has gone already
					return err
				}
			}
			return nil
		}})
		if err != nil { // they go with the session that made them
			t.log.Debug("destroying session copies of keys", "error", err)
		}
	}
}

// takeUnused returns what is to be destroyed; nothing if that is all, and the sweeping ends.
func (cs *copies) takeUnused() []unusedCopy {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	unused := cs.unused
	cs.unused = nil
	cs.sweeping = len(unused) > 0
	return unused
}

// room reports whether there may be one more copy, if need be in the place of one that was not used for a while.
func (cs *copies) room(t *Token) bool {
	cs.mu.Lock()
	full := len(cs.of) >= cs.most
	var idle *keyHandle
	if full {
		now, looked := time.Since(confirmEpoch), 0
		for h := range cs.of { // in an order that differs each time
			if now-time.Duration(h.confirmed.Load()) > cs.idle {
				idle = h
				break
			}
			if looked++; looked == 32 {
				break
			}
		}
	}
	cs.mu.Unlock()
	if idle != nil {
		t.dropCopy(idle)
	}
	return !full || idle != nil
}

func (cs *copies) add(h *keyHandle) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.of == nil {
		cs.of = map[*keyHandle]struct{}{}
	}
	cs.of[h] = struct{}{}
}

func (cs *copies) remove(h *keyHandle) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.of, h)
}

// count returns how many keys have a copy.
func (cs *copies) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.of)
}

// forget ends all copies: they have gone with the connection.
func (cs *copies) forget() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for h := range cs.of {
		h.copy.Store(nil)
	}
	cs.of, cs.unused = nil, nil
}
