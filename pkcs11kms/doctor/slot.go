package doctor

import (
	"context"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Slot returns the number of the slot of the module that has the token now: the only one with its label, serial, manufacturer and
// model. Nobody logs in. It is for programs that work with the token by another library, and must not send the PIN to another token.
func (t *TokenReport) Slot(ctx context.Context) (uint, error) {
	uri := token.URI{Token: t.Label, Serial: t.Serial, ModulePath: t.Module} // of which the module counts
	return token.Locate(ctx, token.Config{URI: uri.String()},
		token.Names{Label: t.Label, Serial: t.Serial, Manufacturer: t.Manufacturer, Model: t.Model})
}
