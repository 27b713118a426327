package token

import (
	"context"
	"errors"
	"slices"

	"github.com/miekg/pkcs11"
)

// This file finds and destroys what is left of a key that a process was making when it was killed, for tokens whose quirk says
// keepsHalfMade.
//
// SoftHSM makes an object by some thirty writes of its file: each attribute is written with a default first, and then the template, CKA_ID
// among it, in one step. What a kill in between leaves is an object from then on. Measured with SoftHSM 2.6.1, by a kill at each of these
// writes in C_GenerateKey and C_GenerateKeyPair: until the step it is a key object that has no CKA_ID, no CKA_LABEL, no value and no
// parameters, CKA_LOCAL is false, and so is CKA_TOKEN, although it stays: a search for objects of the token passes over it. After the step
// it has the CKA_ID by which the janitor finds it. (After the first two writes not even the class can be read, and an empty file is not
// shown. These are left alone.)
//
// Who reads such an object makes SoftHSM write what the file lacks, and would be in the way of a process that is just making it. So even
// looking for it is done in the turn of a change, see change.go: then no process of this package is making one. Of others only two looks
// that lie apart can tell that none is at work.

// HalfMade is what one look has found.
type HalfMade struct {
	Objects []Object

	handles    []pkcs11.ObjectHandle // of Objects
	generation uint64                // of the connection
}

// HalfMade looks for objects that a process has left half made which was killed, or that another application is making now. On a token that
// is not known to keep such there are none.
func (t *Token) HalfMade(ctx context.Context) (HalfMade, error) {
	if !t.facts().quirk.keepsHalfMade {
		return HalfMade{}, nil
	}
	var found HalfMade
	err := t.change(ctx, &operation{name: "C_FindObjects", run: func(s *session, _ []byte) error {
		now, err := s.halfMade()
		if err == nil {
			found = now
		}
		return err
	}})
	if err != nil {
		return HalfMade{}, err
	}
	return found, nil
}

// DestroyHalfMade destroys those objects of an earlier look that are there still, and as they were, and returns them. After a connection
// that was lost in between there are none, since nobody knows which they are. (A handle is good for as long as the session that has found
// the object first. When that was closed, the object is not known again, and stays for another two looks.)
func (t *Token) DestroyHalfMade(ctx context.Context, seen HalfMade) ([]Object, error) {
	if len(seen.handles) == 0 {
		return nil, nil
	}
	var destroyed []Object
	o := &operation{name: "C_DestroyObject", once: true}
	o.run = func(s *session, _ []byte) error {
		now, err := s.halfMade()
		if err != nil {
			return err
		}
		still := now.in(seen)
		if _, err := s.destroyAll(o, still.handles); err != nil {
			return err
		}
		destroyed = still.Objects
		return nil
	}
	if err := t.change(ctx, o); err != nil {
		return nil, err
	}
	return destroyed, nil
}

// in returns what an earlier look has found as well.
func (h HalfMade) in(earlier HalfMade) (both HalfMade) {
	if h.generation != earlier.generation {
		return both
	}
	for i, handle := range h.handles {
		if slices.Contains(earlier.handles, handle) {
			both.Objects, both.handles = append(both.Objects, h.Objects[i]), append(both.handles, handle)
		}
	}
	return both
}

// halfMade looks for the objects. The caller has the turn of a change.
func (s *session) halfMade() (found HalfMade, err error) {
	found.generation = s.generation
	if err := s.reindex(); err != nil {
		return found, err
	}
	for _, class := range keyClasses {
		handles, err := s.passedOver(class)
		if err != nil {
			return found, err
		}
		for _, handle := range handles {
			o, half, err := s.isHalfMade(handle)
			if err != nil {
				return found, err
			}
			if half {
				found.Objects, found.handles = append(found.Objects, o), append(found.handles, handle)
			}
		}
	}
	return found, nil
}

// passedOver returns the objects of a class that are none of the token's as far as CKA_TOKEN says: those that are half made, and those of
// sessions of this process.
func (s *session) passedOver(class uint) ([]pkcs11.ObjectHandle, error) {
	ofClass := pkcs11.NewAttribute(pkcs11.CKA_CLASS, class)
	all, err := s.search([]*pkcs11.Attribute{ofClass}, maxObjects)
	if err != nil {
		return nil, err
	}
	tokens, err := s.search([]*pkcs11.Attribute{ofClass, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}, maxObjects)
	if err != nil {
		return nil, err
	}
	known := map[pkcs11.ObjectHandle]bool{}
	for _, handle := range tokens {
		known[handle] = true
	}
	return slices.DeleteFunc(all, func(handle pkcs11.ObjectHandle) bool { return known[handle] }), nil
}

// isHalfMade tells whether an object has nothing that would make it somebody's: no name and no key. What is not told may be there.
func (s *session) isHalfMade(handle pkcs11.ObjectHandle) (o Object, half bool, err error) {
	o, err = s.describe(handle)
	if errors.Is(err, ErrKeyMissing) {
		return o, false, nil // it is gone meanwhile
	}
	if err != nil || !o.NoID || o.Local {
		return o, false, err
	}
	ofTheKey := uint(pkcs11.CKA_EC_PARAMS)
	switch {
	case o.SecretKey():
		ofTheKey = pkcs11.CKA_VALUE_LEN
	case o.KeyType == pkcs11.CKK_RSA:
		ofTheKey = pkcs11.CKA_MODULUS
	}
	values, err := s.attributes(handle, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil), pkcs11.NewAttribute(ofTheKey, nil)})
	switch {
	case errors.Is(err, ErrKeyMissing):
		return o, false, nil
	case isRV(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_SENSITIVE, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID):
		return o, false, nil // or it is of a kind that we do not make
	case err != nil:
		return o, false, err
	}
	return o, len(values) == 2 && len(values[0].Value) == 0 && (len(values[1].Value) == 0 || o.SecretKey() && ulong(values[1].Value) == 0), nil
}
