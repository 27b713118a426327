package main

import (
	"context"
	"errors"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// agreeUndecided asks before keys are removed whose makers may be alive elsewhere.
func (a *app) agreeUndecided(ctx context.Context, o examination, agreed bool) error {
	if !o.undecided || agreed {
		return nil
	}
	if !isTerminal(a.stdin) {
		return &usageError{err: errors.New("--undecided asks first, and the standard input is no terminal to answer at"),
			hint: "see which keys are half made: pkcs11kms doctor\nand remove them unasked: pkcs11kms doctor --repair --undecided --yes"}
	}
	agreed, err := confirm(ctx, a.stdin, a.stderr, "In a copy of a state directory this destroys keys that are whole in the original. "+
		"Is this the only one, and no other process works on it?")
	if err == nil && !agreed {
		err = &pkcs11kms.RefusedError{Problem: "nothing is removed", Advice: "to remove what nobody can decide, answer y"}
	}
	return err
}
