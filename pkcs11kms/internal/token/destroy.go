package token

import (
	"context"
	"errors"

	"github.com/miekg/pkcs11"
)

// DestroyKey destroys the secret key with exactly this CKA_ID and CKA_LABEL. It returns ErrKeyMissing if no object has the
// id, ErrKeyForeign if one has it under another label, and ErrKeyAmbiguous if several have it; then nothing is destroyed.
// After a *HungError the key may or may not be destroyed.
func (t *Token) DestroyKey(ctx context.Context, id []byte, label string) error {
	return t.destroyLabelled(ctx, id, label, pkcs11.CKO_SECRET_KEY)
}

// DestroyKeyPair destroys the private key, then the public key, with exactly this CKA_ID and CKA_LABEL. One half alone is
// destroyed as well: the other may have gone when an earlier call died, or have another label, which is ErrKeyForeign once
// ours is gone. Otherwise it returns what DestroyKey does, ErrKeyMissing if neither half is there.
func (t *Token) DestroyKeyPair(ctx context.Context, id []byte, label string) error {
	return t.destroyLabelled(ctx, id, label, pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY)
}

// destroyLabelled destroys the objects of the classes that have the label, in their order, and leaves the others alone: a
// public key can be relabelled without the PIN, which must not keep the private one alive.
func (t *Token) destroyLabelled(ctx context.Context, id []byte, label string, classes ...uint) error {
	id = append([]byte(nil), id...)
	foreign := false
	err := t.destroy(ctx, func(s *session) (objects []pkcs11.ObjectHandle, err error) {
		missing := ErrKeyMissing
		for _, class := range classes {
			object, err := twice(s, func(s *session) (pkcs11.ObjectHandle, error) { return s.find(class, id) })
			if errors.Is(err, ErrKeyMissing) {
				missing = err
				continue
			}
			if err != nil {
				return nil, err
			}
			found, err := s.attributes(object, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
			switch {
			case err != nil:
				return nil, err
			case len(found) != 1 || string(found[0].Value) != label:
				foreign = true
			default:
				objects = append(objects, object)
			}
		}
		switch {
		case len(objects) > 0:
			return objects, nil
		case foreign:
			return nil, ErrKeyForeign
		}
		return nil, missing
	})
	if err == nil && foreign {
		return ErrKeyForeign
	}
	return err
}

// DestroyObject destroys the object with exactly this CKA_ID, of whatever class, or the two halves of a key pair of one
// label, private half first: what no Key and no KeyPair names. It returns ErrKeyMissing if there is none and
// ErrKeyAmbiguous, destroying nothing, if there are several otherwise. After a *HungError the object may or may not be
// destroyed.
func (t *Token) DestroyObject(ctx context.Context, id []byte) error {
	if len(id) == 0 {
		return errors.New("destroying an object: its CKA_ID is empty") // which would fit many
	}
	id = append([]byte(nil), id...)
	return t.destroy(ctx, func(s *session) ([]pkcs11.ObjectHandle, error) {
		return twice(s, func(s *session) ([]pkcs11.ObjectHandle, error) { return s.findAny(id) })
	})
}

func (t *Token) destroy(ctx context.Context, find func(*session) ([]pkcs11.ObjectHandle, error)) error {
	o := &operation{name: "C_DestroyObject", once: true}
	o.run = func(s *session, _ []byte) error {
		objects, err := find(s)
		if err != nil {
			return err
		}
		gone, err := s.destroyAll(o, objects)
		if err != nil {
			return err
		}
		if gone == len(objects) {
			return ErrKeyMissing
		}
		return nil
	}
	return t.change(ctx, o)
}

// destroyAll destroys objects for an operation, in their order, and counts those that another process was faster with.
func (s *session) destroyAll(o *operation, objects []pkcs11.ObjectHandle) (gone int, err error) {
	for _, object := range objects {
		if s.abandoned() {
			return gone, errNotBegun
		}
		if s.claim.lost.Load() { // the handle of the object may be another's, too
			return gone, errNotBegun // for which session.run has a better name
		}
		o.begun = true
		err = wrapRV("C_DestroyObject", s.token.c.DestroyObject(s.handle, object))
		s.token.holders.gone(object)
		if isRV(err, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID) {
			gone++
		} else if err != nil {
			return gone, err
		}
	}
	return gone, nil
}

// twice looks for what is to be destroyed and, if it is not found, once more on a fresh session: whoever is told that there is nothing
// to destroy forgets that there ever was, and a key that was missed would stay in the token for good.
func twice[T any](s *session, find func(*session) (T, error)) (found T, err error) {
	found, err = find(s)
	if !errors.Is(err, ErrKeyMissing) {
		return found, err
	}
	fresh := &session{token: s.token}
	defer fresh.close()
	err = fresh.run(&operation{run: func(fresh *session, _ []byte) (err error) {
		found, err = find(fresh)
		return err
	}}, nil)
	if isRV(err, pkcs11.CKR_SESSION_COUNT) { // there is no other session to be had
		return find(s)
	}
	return found, err
}
