package token

import (
	"cmp"
	"fmt"
	"slices"
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

// names are what the token calls itself.
func (f found) names() Names {
	return Names{f.label(), f.serial(), trim(f.info.ManufacturerID), trim(f.info.Model)}
}

func (f found) initialized() bool { return f.info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 }

func (f found) String() string {
	if !f.initialized() {
		return fmt.Sprintf("  (a token that is not initialised, %q %q)", trim(f.info.ManufacturerID), trim(f.info.Model))
	}
	n := f.names()
	u := URI{Token: n.Label, Serial: n.Serial, Manufacturer: n.Manufacturer, Model: n.Model}
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

// wanted says which token is meant, see Config.
type wanted struct {
	uri    URI
	serial string
	known  Names
	proves bool // the candidates can be told apart when somebody has logged in
}

// findTokens returns the tokens that can be the one that is meant, and may be logged in to.
func findTokens(c module, modulePath string, want wanted) ([]found, error) {
	tokens, err := listTokens(c)
	if err != nil {
		return nil, refuse(TokenMissing, err, fmt.Sprintf("listing the tokens of PKCS#11 module %q", modulePath),
			"check that the device is connected and its service runs")
	}
	return want.candidates(tokens)
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

// candidates chooses by names: what the URI says, the serial that is required, and what is known.
func (w wanted) candidates(tokens []found) ([]found, error) {
	var ready, raw []found
	for _, f := range tokens {
		switch {
		case !w.uri.matches(f):
		case f.initialized():
			ready = append(ready, f)
		default:
			raw = append(raw, f)
		}
	}
	uri := w.uri.String()
	switch {
	case len(ready) == 0 && len(raw) > 0 && w.uri.Token == "":
		return nil, refuse(NotInitialized, nil, fmt.Sprintf("the token that matches %q is not initialised", uri),
			"initialise it with the vendor's tool (SoftHSM: softhsm2-util --init-token --free --label LABEL)")
	case len(ready) == 0:
		return nil, refuse(TokenMissing, nil, fmt.Sprintf("no token matches %q", uri), presentTokens(tokens)...)
	}
	fit, likely := w.likely(ready)
	switch {
	case len(fit) > 1 && !(likely && w.proves):
		return nil, refuse(TokenAmbiguous, nil, fmt.Sprintf("%d tokens match %q", len(fit), uri),
			"add serial= to the URI; the tokens that match are:", describeTokens(fit))
	case !w.fits(fit[0]):
		return nil, w.mismatch(fit[0])
	}
	return fit, nil
}

// likely returns those of the tokens that have all the names that are known, or else the serial, or else the only one that may be logged
// in to; and all when there is none.
func (w wanted) likely(ready []found) (fit []found, ok bool) {
	serial := cmp.Or(w.serial, w.known.Serial)
	of := func(is func(found) bool) []found {
		return slices.DeleteFunc(slices.Clone(ready), func(f found) bool { return !w.fits(f) || !is(f) })
	}
	if fit = of(func(f found) bool { return f.names() == w.known }); len(fit) > 0 {
		return fit, true
	}
	if fit = of(func(f found) bool { return serial != "" && f.serial() == serial }); len(fit) > 0 {
		return fit, true
	}
	if fit = of(func(found) bool { return true }); len(fit) == 1 {
		return fit, true
	}
	return ready, false
}

// fits reports whether a token may be logged in to: the PIN is not sent to one that cannot be meant.
func (w wanted) fits(f found) bool {
	same := func(a, b string) bool { return a != "" && a == b }
	return (w.serial == "" || f.serial() == w.serial) &&
		(w.known == Names{} || f.names() == w.known || same(f.label(), w.known.Label) || same(f.serial(), w.known.Serial))
}

func (w wanted) mismatch(f found) error {
	expected := fmt.Sprintf("serial %q, but %q is expected", f.serial(), w.serial)
	if w.serial == "" {
		expected = fmt.Sprintf("neither the label nor the serial of the one that is expected: it is %v, and not %v", f.names(), w.known)
	}
	return refuse(SerialMismatch, nil, fmt.Sprintf("the token that matches %q has %s", w.uri.String(), expected),
		"another token was put in the place of the one that holds the keys: connect the right one")
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
