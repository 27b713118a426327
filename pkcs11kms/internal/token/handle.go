package token

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

// An object handle is a number that the module gives out. When another client destroys the object, most modules answer the number
// with an error from then on; some give it to another object (measured: opencryptoki). A MAC by such a handle would be another key's.
// So what a handle was found for is read again after it was used and before the answer leaves, on the session that used it: each
// time, or once a second where it is known that a stale handle is an error (quirks.go).

// confirmInterval is how long a handle is believed where a stale one is an error.
const confirmInterval = time.Second

// confirmTries bounds how often an object is looked for anew because its handle had become another's.
const confirmTries = 3

// errReused says that the handle was another object's by the time it was used, so that the key was not there. A session on which
// something was begun by the handle must not be used again.
var errReused = fmt.Errorf("%w: its handle has become another object's", ErrKeyMissing)

// named is an object of a Token that is named by its class and CKA_ID, with its handle once it was found.
type named struct {
	token  *Token
	class  uint // CKO_...
	id     []byte
	handle atomic.Pointer[keyHandle]
}

// keyHandle is an object handle, the generation of the connection that it is valid in, and what the object was when it was found.
type keyHandle struct {
	generation uint64
	object     pkcs11.ObjectHandle
	keyType    atomic.Pointer[[]byte] // CKA_KEY_TYPE as the module gives it; nil until it was read
	confirmed  atomic.Int64           // when the object was last seen to be the key, in nanoseconds since confirmEpoch
	copy       atomic.Pointer[copied] // used in its place; nil if there is none
	copying    atomic.Bool            // whether there is a copy, or one was refused
}

// confirmEpoch is what times of confirmation count from, by the monotonic clock.
var confirmEpoch = time.Now()

// ID returns a copy of the key's CKA_ID.
func (n *named) ID() []byte { return append([]byte(nil), n.id...) }

// object returns the key's handle, looking for it if it is not known in this generation. It says whether it was searched for just now.
func (n *named) object(s *session) (h *keyHandle, fresh bool, err error) {
	generation := s.generation
	if h := n.handle.Load(); h != nil && h.generation == generation {
		return h, false, nil
	}
	object, fresh, err := s.locate(n.class, n.id)
	if err != nil {
		return nil, true, err
	}
	h = &keyHandle{generation: generation, object: object}
	n.hold(h)
	return h, fresh, nil
}

// remember keeps the handle of an object that was just made on a session.
func (n *named) remember(s *session, object pkcs11.ObjectHandle) {
	n.hold(&keyHandle{generation: s.generation, object: object})
}

// hold keeps a handle, unless another key holds the same: one of the two is stale, so neither keeps it, and whoever is used next
// looks for its object anew.
func (n *named) hold(h *keyHandle) {
	if old := n.handle.Swap(h); old != nil {
		n.token.dropCopy(old)
		if old.object != h.object {
			n.token.holders.drop(old.object, n)
		}
	}
	other := n.token.holders.take(h.object, n)
	if other == nil {
		return
	}
	if held := other.handle.Load(); held != nil && held.object == h.object && held.generation == h.generation {
		other.forget(held)
		n.forget(h)
	}
}

// forget drops a handle that was found stale, unless another caller has found the new one already.
func (n *named) forget(h *keyHandle) {
	if n.handle.CompareAndSwap(h, nil) {
		n.token.holders.drop(h.object, n)
		n.token.dropCopy(h)
	}
}

// holders tells which key holds a handle. A key that is not used any more leaves its entry until its handle is given out again.
type holders struct {
	mu       sync.Mutex // guards byObject
	byObject map[pkcs11.ObjectHandle]*named
}

// take notes the holder of a handle and returns the one before, if it is of another object.
func (hs *holders) take(object pkcs11.ObjectHandle, n *named) (other *named) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.byObject == nil {
		hs.byObject = map[pkcs11.ObjectHandle]*named{}
	}
	other = hs.byObject[object]
	hs.byObject[object] = n
	if other == n || other != nil && other.class == n.class && bytes.Equal(other.id, n.id) {
		return nil
	}
	return other
}

// drop ends what take has noted of a key.
func (hs *holders) drop(object pkcs11.ObjectHandle, n *named) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.byObject[object] == n {
		delete(hs.byObject, object)
	}
}

// forget ends all: no handle is valid any more.
func (hs *holders) forget() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.byObject = nil
}

// gone ends what is noted of an object that was destroyed.
func (hs *holders) gone(object pkcs11.ObjectHandle) {
	hs.mu.Lock()
	n := hs.byObject[object]
	delete(hs.byObject, object)
	hs.mu.Unlock()
	if n == nil {
		return
	}
	if h := n.handle.Load(); h != nil && h.object == object {
		n.handle.CompareAndSwap(h, nil)
		n.token.dropCopy(h)
	}
}

// confirm makes sure that the handle, which was just used, is the key's. Otherwise it is forgotten, and the error is errReused.
func (s *session) confirm(n *named, h *keyHandle) error {
	now := int64(time.Since(confirmEpoch))
	if at := h.confirmed.Load(); at != 0 && s.token.facts().quirk.staleHandlesErr && now-at < int64(confirmInterval) {
		return nil
	}
	err := s.isKey(n, h)
	switch {
	case err == nil:
		h.confirmed.Store(now)
	case errors.Is(err, ErrKeyMissing):
		n.forget(h)
		err = errReused
	}
	return err
}

// isKey reads what the object of the handle is now, and compares it with the key.
func (s *session) isKey(n *named, h *keyHandle) error {
	values, err := s.attributes(h.object, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, nil), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, nil), pkcs11.NewAttribute(pkcs11.CKA_ID, nil)})
	if err != nil {
		return err
	}
	if len(values) != 3 {
		return fmt.Errorf("confirming the handle of a key: %w: %d attributes instead of 3", ErrMalformed, len(values))
	}
	class, keyType, id := values[0].Value, slices.Clone(values[1].Value), values[2].Value
	if ulong(class) != n.class || !bytes.Equal(id, n.id) {
		return errReused
	}
	if !h.keyType.CompareAndSwap(nil, &keyType) && !bytes.Equal(*h.keyType.Load(), keyType) {
		return errReused
	}
	return nil
}

// used runs use with the handle and makes sure that the object was the key: also where use failed, since what has the handle now may
// refuse what the key would do. Errors of the session or the device, and of a stale handle, are left to others.
func (s *session) used(n *named, h *keyHandle, use func() error) error {
	err := use()
	if e, ok := errors.AsType[*Error](err); ok && (e.StaleHandle() || e.DeviceLost()) {
		return err
	}
	if confirmed := s.confirm(n, h); err == nil || errors.Is(confirmed, errReused) {
		return confirmed
	}
	return err
}

// withHandle runs use with the key's handle. If the handle turns out stale, the object is looked for again and use is
// repeated once: it must be safe to repeat.
func (s *session) withHandle(n *named, use func(*keyHandle) error) error {
	for {
		h, fresh, err := n.object(s)
		if err != nil {
			return err
		}
		err = use(h)
		if e, ok := errors.AsType[*Error](err); !ok || !e.StaleHandle() {
			return err
		}
		n.forget(h)
		if fresh {
			return err
		}
		if s.abandoned() {
			return errNotBegun
		}
	}
}

// withObject is withHandle for a use that ends with its call: what it has made counts only if the handle was the key's. It is repeated
// as long as the handle was another's.
func (s *session) withObject(n *named, use func(pkcs11.ObjectHandle) error) error {
	for try := 1; ; try++ {
		err := s.withHandle(n, func(h *keyHandle) error {
			return s.used(n, h, func() error { return s.onCopy(n, h, use) })
		})
		if !errors.Is(err, errReused) || try == confirmTries {
			return err
		}
		if s.abandoned() {
			return errNotBegun
		}
	}
}
