package token

import (
	"context"
	"time"

	"github.com/miekg/pkcs11"
)

// LimitCopies bounds the copies otherwise than at the start.
func (t *Token) LimitCopies(most int, idle time.Duration) { t.copies.most, t.copies.idle = most, idle }

// SessionObjects counts the objects of sessions that the process sees.
func (t *Token) SessionObjects(ctx context.Context) (n int, err error) {
	err = t.do(ctx, &operation{name: "C_FindObjects", run: func(s *session, _ []byte) error {
		found, err := s.search([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)}, maxObjects)
		n = len(found)
		return err
	}})
	return n, err
}

// CallsDirectly tells whether signatures are made by way of the function list.
func (t *Token) CallsDirectly() bool { return t.functions != nil }
