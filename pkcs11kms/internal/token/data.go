package token

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
)

// ErrNoData says that the token keeps no data objects (CKO_DATA). It wraps its answer.
var ErrNoData = errors.New("the token keeps no data objects")

// dataApplication is CKA_APPLICATION of what this package keeps in a token.
const dataApplication = "pkcs11kms"

// maxData bounds how many data objects of one label there may be, and maxDataBytes how long what is read of one.
const (
	maxData      = 16
	maxDataBytes = 4 << 10
)

// dataTemplate finds the data objects with a label.
func dataTemplate(label string) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
}

// Data returns what the data objects with a label hold, in no order. A token that has none of the kind has none of the label.
func (t *Token) Data(ctx context.Context, label string) (values [][]byte, err error) {
	err = t.do(ctx, &operation{name: "C_GetAttributeValue", run: func(s *session, _ []byte) error {
		values = nil
		objects, err := s.search(dataTemplate(label), maxData)
		if refusesKind(err) {
			return nil
		}
		for _, object := range objects {
			found, err := s.attributes(object, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
			switch {
			case errors.Is(err, ErrKeyMissing): // destroyed meanwhile
			case err != nil:
				return err
			case len(found) == 1 && len(found[0].Value) <= maxDataBytes:
				values = append(values, found[0].Value)
			}
		}
		return err
	}})
	if err != nil {
		return nil, err
	}
	return values, nil
}

// ReplaceData makes a private data object with a label and then destroys those that there were: whoever dies in between leaves both. An
// ErrNoData is the token's refusal. It is not repeated, so after another error there may be a new object or not, but never none.
func (t *Token) ReplaceData(ctx context.Context, label string, value []byte) error {
	value = append([]byte(nil), value...)
	o := &operation{name: "C_CreateObject", once: true}
	o.run = func(s *session, _ []byte) error {
		if err := s.reindex(); err != nil {
			return err
		}
		before, err := s.search(dataTemplate(label), maxData)
		if refusesKind(err) {
			return fmt.Errorf("%w: %w", ErrNoData, err)
		}
		if err == nil && len(before) == maxData {
			err = fmt.Errorf("the token does not let go of data objects: %d have the label %q", maxData, label)
		}
		if err != nil {
			return err
		}
		o.begun = true
		if err := s.createData(label, value); err != nil {
			return err
		}
		crash.At("data-made")
		_, err = s.destroyAll(o, before)
		return err
	}
	return t.change(ctx, o)
}

// createData makes a data object that nobody changes, where the token can be told so.
func (s *session) createData(label string, value []byte) (err error) {
	template := append(dataTemplate(label),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_APPLICATION, dataApplication),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, value),
	)
	for _, more := range [][]*pkcs11.Attribute{{pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false)}, nil} {
		_, err = s.token.c.CreateObject(s.handle, append(template[:len(template):len(template)], more...))
		if err = wrapRV("C_CreateObject", err); !refusesKind(err) {
			break
		}
	}
	if refusesKind(err) || isRV(err, pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_SESSION_READ_ONLY, pkcs11.CKR_TOKEN_WRITE_PROTECTED) {
		return fmt.Errorf("%w: %w", ErrNoData, err)
	}
	return err
}
