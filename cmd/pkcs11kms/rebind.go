package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
)

// rebind says that another token holds the keys of a region. Somebody at a terminal is asked first; who is at none must have agreed by
// --yes.
func (a *app) rebind(ctx context.Context, name string, agreed bool) error {
	if !agreed && !isTerminal(a.stdin) {
		return &usageError{err: errors.New("--rebind asks first, and the standard input is no terminal to answer at"),
			hint: "look which keys are in the token: pkcs11kms doctor\n" +
				"and bind the region to it unasked: pkcs11kms doctor --rebind " + shellQuote(name) + " --yes"}
	}
	cfg, err := a.oneShotConfig()
	if err != nil {
		return err
	}
	var bound doctor.Rebinding
	audited := begun(ctx, cfg, "RebindRegion", map[string]any{"region": name})
	err = doctor.RebindRegion(ctx, cfg.Config, cfg.OpenStore, name, func(region doctor.Rebinding) (bool, error) {
		bound = region
		if agreed {
			return audited.begin(true, nil)
		}
		return audited.begin(confirm(ctx, a.stdin, a.stderr, rebindQuestion(region)))
	})
	if err = audited.end(err); err != nil {
		return err
	}
	made := change{fmt.Sprintf("binding region %q to another token", name), "to see how things stand: pkcs11kms doctor"}
	return made.shown(a.printf("bound the region %s to the token %s: %d of its %d keys are in it\n", name, bound.Is,
		bound.Present, bound.Keys))
}

func rebindQuestion(r doctor.Rebinding) string {
	why := r.Problem
	if why == "" {
		why = fmt.Sprintf("the token is %s, and was %s", r.Is, r.Was)
	}
	lost := ""
	if r.Present < r.Keys {
		lost = "; the others cannot be used then"
	}
	return fmt.Sprintf("%s.\n%d of the region's %d keys are in this token%s. Shall it hold the keys of %s from now on?", oneLine(why),
		r.Present, r.Keys, lost, r.Region)
}
