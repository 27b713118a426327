package token

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Key names an HMAC key of a Token by its CKA_ID and remembers its handle. It is safe for concurrent use.
type Key struct {
	named
	hash Hash
}

// Hash returns the hash function that the key is for.
func (k *Key) Hash() Hash { return k.hash }

// HMACKey names the key with this CKA_ID. It asks nothing of the token: the object is looked for at first use.
func (t *Token) HMACKey(h Hash, id []byte) *Key {
	return &Key{hash: h, named: named{token: t, class: pkcs11.CKO_SECRET_KEY, id: append([]byte(nil), id...)}}
}

// GenerateHMACKey makes a key inside the token. The id must be one that no object in the token has; 16 random bytes are
// (see Capabilities.IDBytes). Where nobody knows whether the token can do the kind, the new key is the probe of that: it must make
// a MAC, or it is destroyed again and the error is a *GapError, which HashGap keeps for a while. If it returns a *HungError and the
// key is made after all, the key is destroyed before the error's Done closes. It is never repeated, so after another error the key
// may exist: DestroyKey makes sure.
func (t *Token) GenerateHMACKey(ctx context.Context, h Hash, id []byte, label string) (*Key, error) {
	create := func(s *session) (pkcs11.ObjectHandle, error) {
		if t.provenHash(h) {
			return s.generateWithout(h, id, label)
		}
		return s.generateTried(h, id, label)
	}
	key, err := t.makeKey(ctx, "C_GenerateKey", h, id, create)
	if h.Valid() {
		t.noteTrial(h, err)
	}
	return key, err
}

// ImportHMACKey puts a key of known value, of any length, into the token; otherwise the key is like a generated one. The
// value was outside the token, so this is for tests against known answers and for interoperability only. Not every token
// allows it. As GenerateHMACKey, it undoes itself if its caller goes.
func (t *Token) ImportHMACKey(ctx context.Context, h Hash, id []byte, label string, value []byte) (*Key, error) {
	if len(value) == 0 {
		return nil, errors.New("importing a key: its value is empty")
	}
	value = append([]byte(nil), value...)
	create := func(s *session) (pkcs11.ObjectHandle, error) {
		defer clear(value)
		template := t.restricted(append(t.keyTemplate(t.facts().off, h, id, label, true), pkcs11.NewAttribute(pkcs11.CKA_VALUE, value)), h)
		object, err := t.c.CreateObject(s.handle, template)
		return object, wrapRV("C_CreateObject", err)
	}
	key, err := t.makeKey(ctx, "C_CreateObject", h, id, create)
	clearUnlessHung(value, err)
	return key, err
}

func (t *Token) makeKey(ctx context.Context, name string, h Hash, id []byte,
	create func(*session) (pkcs11.ObjectHandle, error)) (*Key, error) {
	if !h.Valid() {
		return nil, fmt.Errorf("making a key: %v is no hash function of this package", h)
	}
	key := t.HMACKey(h, id)
	err := t.make(ctx, &operation{name: name}, &key.named, func(s *session) ([]pkcs11.ObjectHandle, error) {
		object, err := create(s)
		return []pkcs11.ObjectHandle{object}, err
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// make runs create in its turn, for the object that is named. create returns the handles of what it made, that of the named
// object first; they are destroyed in this order if nobody waits for them any more.
func (t *Token) make(ctx context.Context, o *operation, n *named, create func(*session) ([]pkcs11.ObjectHandle, error)) error {
	if len(n.id) == 0 || len(n.id) > t.facts().quirk.maxIDBytes() {
		return fmt.Errorf("making a key: CKA_ID has %d bytes, this token takes 1 to %d", len(n.id), t.facts().quirk.maxIDBytes())
	}
	var made []pkcs11.ObjectHandle
	o.once = true
	o.run = func(s *session, _ []byte) (err error) {
		if err := s.reindex(); err != nil {
			return err
		}
		if err := s.requireFreeID(n); err != nil {
			return err
		}
		o.begun = true
		if made, err = create(s); err == nil {
			n.remember(s, made[0])
		}
		return err
	}
	o.undo = func(s *session) { s.unmake(made, n.id) }
	t.making.Add(1)
	defer t.making.Add(-1)
	return t.change(ctx, o)
}

// MayHaveMade reports whether there may be an object although GenerateHMACKey or GenerateKeyPair has returned err: the answer of the module
// may have been lost or false. A *HungError is left aside, it undoes itself.
func MayHaveMade(err error) bool {
	if errors.Is(err, ErrGone) || anyError(err, func(e *Error) bool { return e.Func == "C_DestroyObject" }) {
		return true // whatever else it wraps
	}
	if _, gap := errors.AsType[*GapError](err); gap {
		return false
	}
	e, ok := errors.AsType[*Error](err)
	return ok && e.Func != "C_OpenSession"
}

// requireFreeID looks whether an object of the class has the id, where ids are too short to be unique by chance. Elsewhere
// the search is left out: it costs time in proportion to the objects in the token.
func (s *session) requireFreeID(n *named) error {
	if s.token.facts().quirk.idBytes == 0 {
		return nil
	}
	_, err := s.find(n.class, n.id)
	switch {
	case errors.Is(err, ErrKeyMissing):
		return nil
	case err == nil, errors.Is(err, ErrKeyAmbiguous):
		return ErrKeyExists
	}
	return err
}

// unmake destroys a key that nobody waits for any more.
func (s *session) unmake(objects []pkcs11.ObjectHandle, id []byte) {
	t := s.token
	for _, object := range objects {
		if err := t.c.DestroyObject(s.handle, object); err != nil {
			t.log.Error("destroying a key whose creator had gone", "cka_id", hex.EncodeToString(id), "error", wrapRV("C_DestroyObject", err))
			return
		}
		t.holders.gone(object)
	}
	t.log.Info("destroyed a key whose creator had gone", "cka_id", hex.EncodeToString(id))
}
