package token

import (
	"context"
	"errors"
	"fmt"
)

// Locate returns the number of the slot that holds the token with exactly the label, serial, manufacturer and model of want, without a
// login. Serials are not unique, so all four count, an empty one as well. An *OpenError says that none or several tokens have them.
// Of cfg the URI's module and the configuration of SoftHSM count.
func Locate(ctx context.Context, cfg Config, want Info) (slot uint, err error) {
	uri, err := ParseURI(cfg.URI)
	if err != nil {
		return 0, err
	}
	loaded, err := loadModule(uri.ModulePath)
	if err != nil {
		return 0, err
	}
	if err := loaded.lock(ctx); err != nil {
		return 0, err
	}
	defer loaded.unlock()
	c := newToken(cfg, uri, loaded).c
	if err := loaded.acquire(c, cfg.SoftHSMConf); err != nil {
		return 0, err
	}
	tokens, err := listTokens(c)
	if err == nil {
		slot, err = slotOf(tokens, want)
	}
	return slot, errors.Join(err, loaded.release(c))
}

func slotOf(tokens []found, want Info) (uint, error) {
	var fit []found
	for _, f := range tokens {
		info := f.names()
		if f.initialized() && info.Label == want.Label && info.Serial == want.Serial && info.Manufacturer == want.Manufacturer &&
			info.Model == want.Model {
			fit = append(fit, f)
		}
	}
	name := fmt.Sprintf("%q, serial %q (%s %s)", want.Label, want.Serial, want.Manufacturer, want.Model)
	switch len(fit) {
	case 0:
		return 0, refuse(TokenMissing, nil, "the token "+name+" is not there", presentTokens(tokens)...)
	case 1:
		return fit[0].slot, nil
	}
	return 0, refuse(TokenAmbiguous, nil, fmt.Sprintf("%d tokens have the names %s", len(fit), name),
		"give one of them another label with the vendor's tool: nothing else tells them apart")
}

// names are what the token calls itself.
func (f found) names() Info {
	return Info{Label: f.label(), Serial: f.serial(), Manufacturer: trim(f.info.ManufacturerID), Model: trim(f.info.Model)}
}
