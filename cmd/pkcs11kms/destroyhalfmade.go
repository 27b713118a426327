package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
)

// looksApart is how long the looks for half-made objects lie apart; 0 for the time that package doctor has.
var looksApart time.Duration

// destroyHalfMade destroys what killed processes have left in the token of keys that they were making. Somebody at a terminal is asked
// first; who is at none must have agreed by --yes.
func (a *app) destroyHalfMade(ctx context.Context, agreed bool) error {
	if !agreed && !isTerminal(a.stdin) {
		return &usageError{err: errors.New("--destroy-half-made asks first, and the standard input is no terminal to answer at"),
			hint: "see what there is: pkcs11kms doctor\nand destroy it unasked: pkcs11kms doctor --destroy-half-made --yes"}
	}
	if !agreed {
		agreed, err := confirm(ctx, a.stdin, a.stderr, "There is no way back. Destroy the half-made objects that are in the token "+
			"now, without a CKA_ID, a label and a key, and still in a minute?")
		if err == nil && !agreed {
			err = &pkcs11kms.RefusedError{Problem: "the objects are left alone", Advice: "to destroy them, answer y"}
		}
		if err != nil {
			return err
		}
	}
	return a.withRoot(ctx, func(client *pkcs11kms.Client) error {
		found := 0
		waiting := func(objects []doctor.ObjectReport, left time.Duration) {
			if found == 0 {
				_, _ = fmt.Fprintf(a.stderr, "found %s\n", doctor.DescribeHalfMade(objects))
			}
			found = len(objects)
			_, _ = fmt.Fprintf(a.stderr, "looking again in %v\n", left)
		}
		destroyed, err := doctor.DestroyHalfMade(ctx, client, doctor.HalfMadeOptions{Apart: looksApart, Waiting: waiting})
		switch {
		case err != nil:
			return err
		case found == 0:
			return a.printf("no half-made object is in the token of %s\n", client.Region())
		case len(destroyed) == 0:
			return &pkcs11kms.RefusedError{Problem: "nothing is destroyed: none of the objects was there, the same, at both looks",
				Advice: "look again: pkcs11kms doctor"}
		}
		made := change{"destroying half-made objects", "to see what is left: pkcs11kms doctor"}
		return made.shown(a.printf("destroyed %s in the token of %s\n", doctor.DescribeHalfMade(destroyed), client.Region()))
	})
}
