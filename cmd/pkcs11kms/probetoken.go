package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
)

// probeTokenObjects tries the key specs that a token lets nobody try otherwise, by keys that are made in it and destroyed again. Somebody
// at a terminal is asked first; who is at none must have agreed by --yes.
func (a *app) probeTokenObjects(ctx context.Context, agreed bool) error {
	if !agreed && !isTerminal(a.stdin) {
		return &usageError{err: errors.New("--probe-token-objects asks first, and the standard input is no terminal to answer at"),
			hint: "see which key specs were not tried: pkcs11kms doctor\nand try them unasked: pkcs11kms doctor --probe-token-objects --yes"}
	}
	return a.withBridge(ctx, func(bridge *pkcs11kms.Bridge) error {
		client, err := bridge.Client("")
		if err != nil {
			return err
		}
		untried, err := doctor.UntriedKeySpecs(ctx, bridge, client.Region())
		if err != nil {
			return err
		}
		if len(untried.KeySpecs) == 0 {
			return a.printf("the token %q of %s makes keys that end with their session, by which it is tried: nothing is made in it\n",
				untried.Token, untried.Region)
		}
		if !agreed {
			if err := a.agreeProbe(ctx, untried); err != nil {
				return err
			}
		}
		return a.probeSpecs(ctx, client.As(bridge.Root()), untried.KeySpecs)
	})
}

func (a *app) agreeProbe(ctx context.Context, untried doctor.Untried) error {
	question := fmt.Sprintf("This makes, uses and destroys %s in the token %q of %s, one after the other. Go on?",
		counted(len(untried.KeySpecs), "key"), untried.Token, untried.Region)
	agreed, err := confirm(ctx, a.stdin, a.stderr, question)
	if err == nil && !agreed {
		err = &pkcs11kms.RefusedError{Problem: "nothing is made in the token", Advice: "to try it, answer y"}
	}
	return err
}

// probeSpecs tells what it tries on standard error, since an RSA key can take a minute, and what it finds as it comes.
func (a *app) probeSpecs(ctx context.Context, client *pkcs11kms.Client, specs []types.KeySpec) error {
	for i, spec := range specs {
		fmt.Fprintf(a.stderr, "trying %s (%d of %d)\n", spec, i+1, len(specs))
		found, err := doctor.ProbeTokenObjects(ctx, client, spec)
		if err != nil {
			return fmt.Errorf("trying %s: %w", spec, err)
		}
		if err := a.printf("%s: %s\n", spec, oneLine(probed(found))); err != nil {
			return err
		}
	}
	return nil
}

// probed says what a trial has shown.
func probed(p doctor.Probed) string {
	switch {
	case p.Gap != nil:
		return fmt.Sprintf("cannot be made or used: %v", p.Gap)
	case len(p.Missing) > 0:
		return fmt.Sprintf("made and used; signs by %s, and not by %s", listed(p.Signs), listed(p.Missing))
	}
	return "made and used"
}

func listed(algorithms []types.SigningAlgorithmSpec) string {
	return strings.Join(namesOf(algorithms), ", ")
}
