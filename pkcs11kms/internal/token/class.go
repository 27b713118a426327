package token

import (
	"fmt"

	"github.com/miekg/pkcs11"
)

// ClassName returns the name of the object's class, like "CKO_SECRET_KEY".
func (o Object) ClassName() string {
	switch o.Class {
	case pkcs11.CKO_SECRET_KEY:
		return "CKO_SECRET_KEY"
	case pkcs11.CKO_PRIVATE_KEY:
		return "CKO_PRIVATE_KEY"
	case pkcs11.CKO_PUBLIC_KEY:
		return "CKO_PUBLIC_KEY"
	}
	return fmt.Sprintf("CKO 0x%X", o.Class)
}
