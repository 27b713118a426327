package token

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Object is what the token says of one key object. An attribute that the token does not tell is zero.
type Object struct {
	Class             uint // CKO_SECRET_KEY, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY
	KeyType           uint // CKK_...
	Label             string
	ID                []byte
	NoID              bool // the token says that it has no CKA_ID, or an empty one
	ValueLen          int  // bytes; of secret keys
	Token             bool
	Private           bool
	Sensitive         bool
	AlwaysSensitive   bool
	Extractable       bool
	NeverExtractable  bool
	Sign              bool
	Verify            bool
	Local             bool   // generated in the token
	AllowedMechanisms []uint // CKM_...; empty for any
}

// keyClasses are those that key objects have.
var keyClasses = []uint{pkcs11.CKO_SECRET_KEY, pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY}

// maxObjects bounds what Objects collects. A token with more is not one that a list helps with.
const maxObjects = 100_000

// findBatch is how many handles are asked for at once, and objectBatch how many objects are described in one call, so that
// a long list does not run into the deadline of a single one.
const (
	findBatch   = 256
	objectBatch = 32
)

// find returns the object of a class (CKO_...) with exactly this CKA_ID. CKA_TOKEN keeps session copies out. A session can see one object
// twice (opencryptoki 3.8.1, 3 of 1,440 that another process had just made): several are believed when a fresh one sees them, too.
func (s *session) find(class uint, id []byte) (pkcs11.ObjectHandle, error) {
	handles, err := s.withID(id, 2, pkcs11.NewAttribute(pkcs11.CKA_CLASS, class))
	if err == nil && len(handles) > 1 {
		handles, err = s.findAfresh(class, id)
	}
	if err == nil && len(handles) > 1 {
		err = fmt.Errorf("looking for CKA_ID %x: %w", id, ErrKeyAmbiguous)
	}
	if err != nil {
		return 0, err
	}
	return handles[0], nil
}

// findAfresh looks for the objects on a session of its own. Where none can be had, the objects are ambiguous.
func (s *session) findAfresh(class uint, id []byte) (handles []pkcs11.ObjectHandle, err error) {
	fresh := &session{token: s.token}
	defer fresh.close()
	err = fresh.run(&operation{name: "C_FindObjects", run: func(s *session, _ []byte) (err error) {
		handles, err = s.withID(id, 2, pkcs11.NewAttribute(pkcs11.CKA_CLASS, class))
		return err
	}}, nil)
	if s.token.outOfSessions(err) {
		err = fmt.Errorf("looking for CKA_ID %x: %w", id, ErrKeyAmbiguous)
	}
	return handles, err
}

// findAny returns the object with exactly this CKA_ID, of whatever class, or the private and the public half of a pair.
func (s *session) findAny(id []byte) ([]pkcs11.ObjectHandle, error) {
	handles, err := s.withID(id, 3)
	if err != nil || len(handles) == 1 {
		return handles, err
	}
	if len(handles) == 2 {
		one, err := s.describe(handles[0])
		if err != nil {
			return nil, err
		}
		other, err := s.describe(handles[1])
		switch {
		case err != nil:
			return nil, err
		case other.PublicHalfOf(one):
			return handles, nil
		case one.PublicHalfOf(other):
			return []pkcs11.ObjectHandle{handles[1], handles[0]}, nil
		}
	}
	return nil, fmt.Errorf("looking for CKA_ID %x: %w", id, ErrKeyAmbiguous)
}

// withID returns at most limit objects of the token with exactly this CKA_ID, and ErrKeyMissing if there is none.
func (s *session) withID(id []byte, limit int, more ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	handles, err := s.search(append(more,
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
	), limit)
	if err == nil && len(handles) == 0 {
		if err = s.loggedIn(); err == nil {
			err = fmt.Errorf("looking for CKA_ID %x: %w", id, ErrKeyMissing)
		}
	}
	return handles, err
}

// search returns at most limit handles. It always ends the search, or the session could not search again.
func (s *session) search(template []*pkcs11.Attribute, limit int) (handles []pkcs11.ObjectHandle, err error) {
	c := s.token.c
	if err := c.FindObjectsInit(s.handle, template); err != nil {
		return nil, wrapRV("C_FindObjectsInit", err)
	}
	for len(handles) < limit {
		batch, _, err := c.FindObjects(s.handle, min(limit-len(handles), findBatch))
		if err != nil {
			return nil, errors.Join(wrapRV("C_FindObjects", err), wrapRV("C_FindObjectsFinal", c.FindObjectsFinal(s.handle)))
		}
		if len(batch) == 0 {
			break
		}
		handles = append(handles, batch...)
	}
	return handles, wrapRV("C_FindObjectsFinal", c.FindObjectsFinal(s.handle))
}

// Describe returns what the token says of the secret key with this CKA_ID, or ErrKeyMissing or ErrKeyAmbiguous.
func (t *Token) Describe(ctx context.Context, id []byte) (Object, error) {
	return t.describeOne(ctx, pkcs11.CKO_SECRET_KEY, id)
}

// DescribePair is Describe for the private key of a pair.
func (t *Token) DescribePair(ctx context.Context, id []byte) (Object, error) {
	return t.describeOne(ctx, pkcs11.CKO_PRIVATE_KEY, id)
}

func (t *Token) describeOne(ctx context.Context, class uint, id []byte) (Object, error) {
	id = append([]byte(nil), id...)
	var object Object
	err := t.do(ctx, &operation{name: "C_GetAttributeValue", run: func(s *session, _ []byte) error {
		handle, err := s.find(class, id)
		if err != nil {
			return err
		}
		o, err := s.describe(handle)
		if err == nil {
			object = o
		}
		return err
	}})
	if err != nil {
		return Object{}, err
	}
	return object, nil
}

// Objects returns every key object in the token, ours or not. An object that is destroyed meanwhile is left out.
func (t *Token) Objects(ctx context.Context) ([]Object, error) {
	var handles []pkcs11.ObjectHandle
	for _, class := range keyClasses {
		found, err := t.handlesOf(ctx, class)
		if err != nil {
			return nil, err
		}
		handles = append(handles, found...)
	}
	if len(handles) > maxObjects {
		return nil, fmt.Errorf("listing the token's objects: there are more than %d", maxObjects)
	}
	objects := make([]Object, 0, len(handles))
	for len(handles) > 0 {
		n := min(objectBatch, len(handles))
		batch, err := t.describeAll(ctx, handles[:n])
		if err != nil {
			return nil, err
		}
		objects = append(objects, batch...)
		handles = handles[n:]
	}
	return objects, nil
}

func (t *Token) handlesOf(ctx context.Context, class uint) ([]pkcs11.ObjectHandle, error) {
	var handles []pkcs11.ObjectHandle
	err := t.do(ctx, &operation{name: "C_FindObjects", run: func(s *session, _ []byte) error {
		found, err := s.search([]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		}, maxObjects+1)
		if err == nil {
			handles = found
		}
		return err
	}})
	if err != nil {
		return nil, err
	}
	return handles, nil
}

// Labelled tells whether a key object in the token has the label.
func (t *Token) Labelled(ctx context.Context, label string) (there bool, err error) {
	err = t.do(ctx, &operation{name: "C_FindObjects", run: func(s *session, _ []byte) error {
		found, err := s.search([]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		}, 1)
		there = len(found) > 0
		return err
	}})
	return there, err
}

func (t *Token) describeAll(ctx context.Context, handles []pkcs11.ObjectHandle) ([]Object, error) {
	var objects []Object
	err := t.do(ctx, &operation{name: "C_GetAttributeValue", run: func(s *session, _ []byte) error {
		var batch []Object
		for _, h := range handles {
			o, err := s.describe(h)
			switch {
			case errors.Is(err, ErrKeyMissing):
			case err != nil:
				return err
			default:
				batch = append(batch, o)
			}
		}
		objects = batch
		return nil
	}})
	if err != nil {
		return nil, err
	}
	return objects, nil
}

// describedAttributes pairs each attribute with the field that it fills. CKA_ALLOWED_MECHANISMS is last, see describe.
var describedAttributes = []struct {
	attribute uint
	set       func(*Object, []byte)
}{
	{pkcs11.CKA_CLASS, func(o *Object, v []byte) { o.Class = ulong(v) }},
	{pkcs11.CKA_KEY_TYPE, func(o *Object, v []byte) { o.KeyType = ulong(v) }},
	{pkcs11.CKA_LABEL, func(o *Object, v []byte) { o.Label = string(v) }},
	{pkcs11.CKA_ID, func(o *Object, v []byte) { o.ID, o.NoID = v, len(v) == 0 }},
	{pkcs11.CKA_VALUE_LEN, func(o *Object, v []byte) { o.ValueLen = int(ulong(v)) }},
	{pkcs11.CKA_TOKEN, func(o *Object, v []byte) { o.Token = truth(v) }},
	{pkcs11.CKA_PRIVATE, func(o *Object, v []byte) { o.Private = truth(v) }},
	{pkcs11.CKA_SENSITIVE, func(o *Object, v []byte) { o.Sensitive = truth(v) }},
	{pkcs11.CKA_ALWAYS_SENSITIVE, func(o *Object, v []byte) { o.AlwaysSensitive = truth(v) }},
	{pkcs11.CKA_EXTRACTABLE, func(o *Object, v []byte) { o.Extractable = truth(v) }},
	{pkcs11.CKA_NEVER_EXTRACTABLE, func(o *Object, v []byte) { o.NeverExtractable = truth(v) }},
	{pkcs11.CKA_SIGN, func(o *Object, v []byte) { o.Sign = truth(v) }},
	{pkcs11.CKA_VERIFY, func(o *Object, v []byte) { o.Verify = truth(v) }},
	{pkcs11.CKA_LOCAL, func(o *Object, v []byte) { o.Local = truth(v) }},
	{pkcs11.CKA_ALLOWED_MECHANISMS, func(o *Object, v []byte) { o.AllowedMechanisms = ulongs(v) }},
}

// describe reads the attributes of an object in one call, or one by one where the object has not all of them: the module
// answers such a call with an error, and miekg/pkcs11 then drops what it did tell.
func (s *session) describe(h pkcs11.ObjectHandle) (Object, error) {
	var o Object
	all := make([]*pkcs11.Attribute, len(describedAttributes))
	for i, d := range describedAttributes {
		all[i] = pkcs11.NewAttribute(d.attribute, nil)
	}
	values, err := s.attributes(h, all)
	if err == nil {
		for i, d := range describedAttributes {
			d.set(&o, values[i].Value)
		}
		return o, nil
	}
	for i, d := range describedAttributes {
		value, err := s.attributes(h, all[i:i+1])
		switch {
		case err == nil:
			d.set(&o, value[0].Value)
		case d.attribute == pkcs11.CKA_ID && isRV(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID):
			o.NoID = true
		case d.attribute == pkcs11.CKA_ALLOWED_MECHANISMS && isRV(err, pkcs11.CKR_DEVICE_ERROR):
			// p11-kit 0.24 cannot carry the list, and says so; all the others have just been told by the device.
		case !isRV(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_SENSITIVE, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID):
			return Object{}, err
		}
	}
	return o, nil
}

func (s *session) attributes(h pkcs11.ObjectHandle, a []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	values, err := s.token.c.GetAttributeValue(s.handle, h, a)
	err = wrapRV("C_GetAttributeValue", err)
	if isRV(err, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID) {
		return nil, ErrKeyMissing
	}
	return values, err
}
