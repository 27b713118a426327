package token

import (
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// found is a slot and what its token says of itself.
type found struct {
	slot uint
	info pkcs11.TokenInfo
}

// trim takes off the padding of a fixed field; some modules pad with NUL instead of blanks.
func trim(field string) string { return strings.TrimRight(field, " \x00") }

func (f found) label() string  { return trim(f.info.Label) }
func (f found) serial() string { return trim(f.info.SerialNumber) }

func (f found) initialized() bool { return f.info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 }

func (f found) String() string {
	if !f.initialized() {
		return fmt.Sprintf("  (a token that is not initialised, %q %q)", trim(f.info.ManufacturerID), trim(f.info.Model))
	}
	u := URI{Token: f.label(), Serial: f.serial(), Manufacturer: trim(f.info.ManufacturerID), Model: trim(f.info.Model)}
	return "  " + u.String()
}

// matches reports whether the token is one that the URI means.
func (u URI) matches(f found) bool {
	for _, pair := range [][2]string{
		{u.Token, f.label()}, {u.Serial, f.serial()},
		{u.Manufacturer, trim(f.info.ManufacturerID)}, {u.Model, trim(f.info.Model)},
	} {
		if pair[0] != "" && pair[0] != pair[1] {
			return false
		}
	}
	return true
}

// findToken returns the one token that the URI means.
func findToken(c module, modulePath string, u URI, serial string) (found, error) {
	tokens, err := listTokens(c)
	if err != nil {
		return found{}, refuse(TokenMissing, err, fmt.Sprintf("listing the tokens of PKCS#11 module %q", modulePath),
			"check that the device is connected and its service runs")
	}
	return chooseToken(tokens, u, serial)
}

func listTokens(c module) ([]found, error) {
	slots, err := c.GetSlotList(true)
	if err != nil {
		return nil, wrapRV("C_GetSlotList", err)
	}
	var tokens []found
	for _, slot := range slots {
		info, err := c.GetTokenInfo(slot)
		if err != nil {
			continue // removed since, or not recognised: one bad card must not hide the others
		}
		tokens = append(tokens, found{slot: slot, info: info})
	}
	return tokens, nil
}

// chooseToken applies the URI and the serial that is required of the result.
func chooseToken(tokens []found, u URI, serial string) (found, error) {
	var ready, raw []found
	for _, f := range tokens {
		switch {
		case !u.matches(f):
		case f.initialized():
			ready = append(ready, f)
		default:
			raw = append(raw, f)
		}
	}
	switch {
	case len(ready) > 1:
		return found{}, refuse(TokenAmbiguous, nil, fmt.Sprintf("%d tokens match %q", len(ready), u.String()),
			"add serial= to the URI; the tokens that match are:", describeTokens(ready))
	case len(ready) == 0 && len(raw) > 0 && u.Token == "":
		return found{}, refuse(NotInitialized, nil, fmt.Sprintf("the token that matches %q is not initialised", u.String()),
			"initialise it with the vendor's tool (SoftHSM: softhsm2-util --init-token --free --label LABEL)")
	case len(ready) == 0:
		return found{}, refuse(TokenMissing, nil, fmt.Sprintf("no token matches %q", u.String()), presentTokens(tokens)...)
	case serial != "" && ready[0].serial() != serial:
		return found{}, refuse(SerialMismatch, nil,
			fmt.Sprintf("the token that matches %q has serial %q, but %q is expected", u.String(), ready[0].serial(), serial),
			"another token was put in the place of the one that holds the keys: connect the right one")
	}
	return ready[0], nil
}

func presentTokens(tokens []found) []string {
	if len(tokens) == 0 {
		return []string{"the module shows no token at all: " +
			"check that the device is connected and that the module's configuration is the right one"}
	}
	return []string{"correct the URI; the tokens that are there:", describeTokens(tokens)}
}

func describeTokens(tokens []found) string {
	lines := make([]string, len(tokens))
	for i, f := range tokens {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}
