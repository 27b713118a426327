package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
)

// sealRecords seals the records of the store as they are, or anew. It prints what they say, and somebody at a terminal is asked; who is at
// none must have agreed by --yes.
func (a *app) sealRecords(ctx context.Context, again, agreed bool) error {
	flag := "--seal"
	if again {
		flag = "--reseal"
	}
	if !agreed && !isTerminal(a.stdin) {
		return &usageError{err: errors.New(flag + " asks first, and the standard input is no terminal to answer at"),
			hint: "see how the store is: pkcs11kms doctor\nand seal it unasked: pkcs11kms doctor " + flag + " --yes"}
	}
	cfg, err := a.oneShotConfig()
	if err != nil {
		return err
	}
	records, bar := 0, a.counter("sealed records")
	audited := begun(ctx, cfg, "SealRecords", map[string]any{"again": again})
	epoch, err := doctor.SealRecords(ctx, cfg.Config, cfg.OpenStore, doctor.Sealing{
		Again: again,
		List:  func(line string) error { return a.printf("%s\n", oneLine(line)) },
		Agree: func(n int) (bool, error) {
			records = n
			if agreed {
				return audited.begin(true, nil)
			}
			question := "Are these %d records as they are to be? They are sealed so, and nobody can tell later what was edited before."
			return audited.begin(confirm(ctx, a.stdin, a.stderr, fmt.Sprintf(question, n)))
		},
		Progress: bar.set,
	})
	bar.done()
	if err = audited.end(err); err != nil {
		return err
	}
	made := change{"sealing the records of the store", "to see how things stand: pkcs11kms doctor"}
	return made.shown(a.printf("sealed %s, epoch %d\n", counted(records, "record"), epoch))
}
