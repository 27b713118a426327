package token

import (
	"context"
	"errors"
	"fmt"
)

// Locate returns the number of the slot that holds the token with exactly the label, serial, manufacturer and model of want, without a
// login. Serials are not unique, so all four count, an empty one as well. An *OpenError says that none or several tokens have them.
// Of cfg the URI's module and the configuration of SoftHSM count.
func Locate(ctx context.Context, cfg Config, want Names) (slot uint, err error) {
	t, err := prepare(cfg)
	if err != nil {
		return 0, err
	}
	loaded := t.loaded
	if err := loaded.lock(ctx); err != nil {
		return 0, err
	}
	defer loaded.unlock()
	if err := loaded.acquire(t); err != nil {
		return 0, err
	}
	tokens, err := listTokens(t.c)
	if err == nil {
		slot, err = slotOf(tokens, want)
	}
	return slot, errors.Join(err, loaded.release(t))
}

func slotOf(tokens []found, want Names) (uint, error) {
	var fit []found
	for _, f := range tokens {
		if f.initialized() && f.names() == want {
			fit = append(fit, f)
		}
	}
	switch len(fit) {
	case 0:
		return 0, refuse(TokenMissing, nil, fmt.Sprintf("the token %v is not there", want), presentTokens(tokens)...)
	case 1:
		return fit[0].slot, nil
	}
	return 0, refuse(TokenAmbiguous, nil, fmt.Sprintf("%d tokens have the names %v", len(fit), want),
		"give one of them another label with the vendor's tool: nothing else tells them apart")
}
