package token

import (
	"context"
	"errors"
)

// Locate returns the number of the slot whose token has all the names that the URI gives, without a login. Serials are not unique, so
// who must not be wrong names label, serial, manufacturer and model. An *OpenError says that none or several have them.
func Locate(ctx context.Context, cfg Config) (slot uint, err error) {
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
	found, err := findToken(c, loaded.path, uri, cfg.Serial)
	return found.slot, errors.Join(err, loaded.release(c))
}
