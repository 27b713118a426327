package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
)

// retireRegion sets the keys of a region aside. Somebody at a terminal is asked first; who is at none must have agreed by --yes.
func (a *app) retireRegion(ctx context.Context, name string, agreed bool) error {
	if !agreed && !isTerminal(a.stdin) {
		return &usageError{err: errors.New("--retire-region asks first, and the standard input is no terminal to answer at"),
			hint: "look at what the store holds: pkcs11kms doctor\n" +
				"and retire the region unasked: pkcs11kms doctor --retire-region " + shellQuote(name) + " --yes"}
	}
	cfg, err := a.oneShotConfig()
	if err != nil {
		return err
	}
	var retired doctor.RetiredRegion
	audited := begun(ctx, cfg, "RetireRegion", map[string]any{"region": name})
	err = doctor.RetireRegion(ctx, cfg.Config, cfg.OpenStore, name, func(region doctor.RetiredRegion) (bool, error) {
		retired = region
		if agreed {
			return audited.begin(true, nil)
		}
		question := fmt.Sprintf("Its %s cannot be used without the token %q, serial %s. Set them aside, and %s with them?",
			counted(region.Keys, "key"), region.Label, region.Serial, region.Name)
		return audited.begin(confirm(ctx, a.stdin, a.stderr, question))
	})
	if err = audited.end(err); err != nil {
		return err
	}
	made := change{fmt.Sprintf("retiring region %q", name), "to see how things stand: pkcs11kms doctor"}
	return made.shown(a.printf("retired the region %s and set %s aside\n", name, counted(retired.Keys, "key")))
}
