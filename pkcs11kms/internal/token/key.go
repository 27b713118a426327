package token

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// Key names an HMAC key of a Token by its CKA_ID and remembers its handle. It is safe for concurrent use.
type Key struct {
	token  *Token
	hash   Hash
	id     []byte
	handle atomic.Pointer[keyHandle]
}

// keyHandle is an object handle and the generation of the connection that it is valid in.
type keyHandle struct {
	generation uint64
	object     pkcs11.ObjectHandle
}

// Hash returns the hash function that the key is for.
func (k *Key) Hash() Hash { return k.hash }

// ID returns a copy of the key's CKA_ID.
func (k *Key) ID() []byte { return append([]byte(nil), k.id...) }

// HMACKey names the key with this CKA_ID. It asks nothing of the token: the object is looked for at first use.
func (t *Token) HMACKey(h Hash, id []byte) *Key {
	return &Key{token: t, hash: h, id: append([]byte(nil), id...)}
}

// GenerateHMACKey makes a key inside the token. The id must be one that no object in the token has; 16 random bytes are
// (see Capabilities.IDBytes). If it returns a *HungError and the key is made after all, the key is destroyed before the
// error's Done closes. It is never repeated, so after another error the key may exist: DestroyKey makes sure.
func (t *Token) GenerateHMACKey(ctx context.Context, h Hash, id []byte, label string) (*Key, error) {
	create := func(s *session) (pkcs11.ObjectHandle, error) {
		template := t.restricted(t.withLength(t.keyTemplate(h, id, label, true), h.KeyBytes()), h)
		object, err := t.c.GenerateKey(s.handle, t.quirk.generateMechanism(h), template)
		return object, wrapRV("C_GenerateKey", err)
	}
	return t.makeKey(ctx, "C_GenerateKey", h, id, create)
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
		template := t.restricted(append(t.keyTemplate(h, id, label, true), pkcs11.NewAttribute(pkcs11.CKA_VALUE, value)), h)
		object, err := t.c.CreateObject(s.handle, template)
		return object, wrapRV("C_CreateObject", err)
	}
	return t.makeKey(ctx, "C_CreateObject", h, id, create)
}

func (t *Token) makeKey(ctx context.Context, name string, h Hash, id []byte, create func(*session) (pkcs11.ObjectHandle, error)) (*Key, error) {
	if !h.Valid() {
		return nil, fmt.Errorf("making a key: %v is no hash function of this package", h)
	}
	if len(id) == 0 || len(id) > t.quirk.maxIDBytes() {
		return nil, fmt.Errorf("making a key: CKA_ID has %d bytes, this token takes 1 to %d", len(id), t.quirk.maxIDBytes())
	}
	key := t.HMACKey(h, id)
	var made pkcs11.ObjectHandle
	err := t.change(ctx, &operation{name: name, once: true,
		run: func(s *session, _ []byte) (err error) {
			if err := s.reindex(); err != nil {
				return err
			}
			if err := t.requireFreeID(s, key.id); err != nil {
				return err
			}
			made, err = create(s)
			if err == nil {
				key.remember(made)
			}
			return err
		},
		undo: func(s *session) { t.unmake(s, made, key.id) },
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// requireFreeID looks whether an object has the id, where ids are too short to be unique by chance. Elsewhere the search is
// left out: it costs time in proportion to the objects in the token.
func (t *Token) requireFreeID(s *session, id []byte) error {
	if t.quirk.idBytes == 0 {
		return nil
	}
	_, err := s.find(id)
	switch {
	case errors.Is(err, ErrKeyMissing):
		return nil
	case err == nil, errors.Is(err, ErrKeyAmbiguous):
		return ErrKeyExists
	}
	return err
}

// unmake destroys a key that nobody waits for any more.
func (t *Token) unmake(s *session, object pkcs11.ObjectHandle, id []byte) {
	if err := t.c.DestroyObject(s.handle, object); err != nil {
		t.log.Error("destroying a key whose creator had gone", "cka_id", hex.EncodeToString(id), "error", wrapRV("C_DestroyObject", err))
		return
	}
	t.log.Info("destroyed a key whose creator had gone", "cka_id", hex.EncodeToString(id))
}

// DestroyKey destroys the secret key with exactly this CKA_ID and CKA_LABEL. It returns ErrKeyMissing if no object has the
// id, ErrKeyForeign if one has it under another label, and ErrKeyAmbiguous if several have it; then nothing is destroyed.
// After a *HungError the key may or may not be destroyed.
func (t *Token) DestroyKey(ctx context.Context, id []byte, label string) error {
	id = append([]byte(nil), id...)
	return t.destroy(ctx, func(s *session) (pkcs11.ObjectHandle, error) {
		object, err := s.find(id)
		if err != nil {
			return 0, err
		}
		o, err := s.describe(object)
		if err == nil && o.Label != label {
			err = ErrKeyForeign
		}
		return object, err
	})
}

// DestroyObject destroys the object with exactly this CKA_ID, of whatever class: one that no Key names. It returns
// ErrKeyMissing if there is none and ErrKeyAmbiguous, destroying nothing, if there are several, such as the two halves of
// a key pair. After a *HungError the object may or may not be destroyed.
func (t *Token) DestroyObject(ctx context.Context, id []byte) error {
	if len(id) == 0 {
		return errors.New("destroying an object: its CKA_ID is empty") // which would fit many
	}
	id = append([]byte(nil), id...)
	return t.destroy(ctx, func(s *session) (pkcs11.ObjectHandle, error) { return s.findAny(id) })
}

func (t *Token) destroy(ctx context.Context, find func(*session) (pkcs11.ObjectHandle, error)) error {
	return t.change(ctx, &operation{name: "C_DestroyObject", once: true, run: func(s *session, _ []byte) error {
		object, err := find(s)
		if err != nil {
			return err
		}
		if s.abandoned() {
			return errNotBegun
		}
		err = wrapRV("C_DestroyObject", t.c.DestroyObject(s.handle, object))
		if isRV(err, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID) {
			return ErrKeyMissing // another process was faster
		}
		return err
	}})
}

// remember keeps the handle for the generation it was found in.
func (k *Key) remember(object pkcs11.ObjectHandle) {
	k.handle.Store(&keyHandle{generation: k.token.generation.Load(), object: object})
}

// object returns the key's handle, looking for it if it is not known in this generation. It says whether it looked.
func (k *Key) object(s *session) (h *keyHandle, fresh bool, err error) {
	generation := k.token.generation.Load()
	if h := k.handle.Load(); h != nil && h.generation == generation {
		return h, false, nil
	}
	object, err := s.find(k.id)
	if err != nil {
		return nil, true, err
	}
	h = &keyHandle{generation: generation, object: object}
	k.handle.Store(h)
	return h, true, nil
}

// forget drops a handle that was found stale, unless another caller has found the new one already.
func (k *Key) forget(h *keyHandle) { k.handle.CompareAndSwap(h, nil) }
