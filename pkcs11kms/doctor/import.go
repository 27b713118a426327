package doctor

import (
	"context"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// examineEmpty says of a key of origin EXTERNAL that holds no material whether that is as it should be.
func (d *examination) examineEmpty(ctx context.Context, record keystore.Key, objects []token.Object) {
	switch {
	case record.Instance != "":
		d.examineUnfinished(ctx, record)
	case len(objects) > 0:
		d.advise("key", record.ID, StatusWarning, "holds no key material by its record, and the token has an object for it",
			"nothing, where the store was restored from a backup: the object is destroyed when material is imported, or the key is deleted")
	default:
		d.sound(record)
	}
}

// examineWrapping looks at a pair for envelopes.
func (d *examination) examineWrapping(record keystore.Key, private token.Object) {
	wrong := exposure(private)
	if private.Sign {
		wrong = append(wrong, "can sign")
	}
	if len(wrong) > 0 {
		d.advise("key", record.ID, StatusError, "the pair, for envelopes with key material, is not as it was made: "+strings.Join(wrong, ", "),
			"find out who changed it; what was imported by it may be known to others")
		return
	}
	d.sound(record)
}

// inMemory says of a token, behind what keys it makes, that imported key material can be seen by this program.
func (d *examination) inMemory(name string, t *token.Token) string {
	if !keyring.SoftwareUnwraps(keyring.ImportWay(d.cfg.Regions[name].Import), t.Info()) {
		return ""
	}
	return "; key material that is imported and that it does not unwrap by itself is unwrapped in the memory of this program " +
		"(import: software-unwrap, the default of SoftHSM tokens)"
}
