package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
)

// destroyObject destroys one object of the token that no key has. Somebody at a terminal is asked first; who is at none
// must have agreed by --yes.
func (a *app) destroyObject(ctx context.Context, hexID string, agreed bool) error {
	id, err := parseCKAID("destroy-object", hexID)
	if err != nil {
		return err
	}
	if !agreed && !isTerminal(a.stdin) {
		return &usageError{err: errors.New("--destroy-object asks first, and the standard input is no terminal to answer at"),
			hint: "look at the object: pkcs11kms doctor\nand destroy it unasked: pkcs11kms doctor --destroy-object " + hexID + " --yes"}
	}
	cfg, err := a.oneShotConfig()
	if err != nil {
		return err
	}
	report := doctor.Examine(ctx, cfg.Config, cfg.StorePath, cfg.OpenStore)
	if err := ctx.Err(); err != nil {
		return err
	}
	name, err := unknownObject(report, cfg.DefaultRegion, hex.EncodeToString(id))
	if err != nil {
		return err
	}
	if !agreed {
		question := "There is no way back, and another application may need it. Destroy the " + name + "?"
		if agreed, err = confirm(ctx, a.stdin, a.stderr, question); err != nil {
			return err
		}
	}
	if !agreed {
		return &pkcs11kms.RefusedError{Problem: "the object is left alone", Advice: "to destroy it, answer y"}
	}
	return a.withRoot(ctx, func(client *pkcs11kms.Client) error {
		if err := doctor.DestroyObject(ctx, client, id); err != nil {
			return err
		}
		made := change{fmt.Sprintf("destroying object %x", id), "to see what is left: pkcs11kms doctor"}
		return made.shown(a.printf("destroyed the %s\n", name))
	})
}

// unknownObject finds the object that is meant among those that no key has, and says what it is.
func unknownObject(report *doctor.Report, regionName, ckaID string) (name string, err error) {
	const look = "see which objects no key has: pkcs11kms doctor"
	region := examined(report, regionName)
	found := slices.DeleteFunc(slices.Clone(region.Unknown), func(o doctor.ObjectReport) bool { return o.CKAID != ckaID })
	owner := slices.IndexFunc(region.Keys, func(k doctor.KeyReport) bool { return k.CKAID == ckaID })
	switch {
	case len(found) > 1:
		return "", &pkcs11kms.RefusedError{Problem: fmt.Sprintf("%d objects of the token have the CKA_ID %s", len(found), ckaID),
			Advice: "destroy them with the tools of the token"}
	case len(found) == 1:
		o := found[0]
		return fmt.Sprintf("%s %q with the CKA_ID %s in the token %q of %s", o.Class, o.Label, ckaID, region.Token.Label, region.Name), nil
	case owner >= 0:
		return "", &pkcs11kms.RefusedError{
			Problem: fmt.Sprintf("the object with the CKA_ID %s belongs to the key %s", ckaID, region.Keys[owner].KeyID),
			Advice:  "delete the key instead: pkcs11kms schedule-key-deletion --key-id ID"}
	}
	for _, check := range report.Checks {
		if check.Status == doctor.StatusError && slices.Contains([]string{"config", "store", "token"}, check.Area) {
			return "", &environmentError{fmt.Errorf("looking for the object: %s: %s", check.Subject, check.Text), check.Hint}
		}
	}
	return "", &pkcs11kms.RefusedError{Problem: "the token has no object with the CKA_ID " + ckaID + " that no key has", Advice: look}
}

// examined returns what was found in a region; the empty name is the default one.
func examined(report *doctor.Report, name string) doctor.RegionReport {
	if len(report.Regions) == 1 && name == "" {
		return report.Regions[0]
	}
	name = cmp.Or(name, pkcs11kms.DefaultRegion)
	for _, region := range report.Regions {
		if region.Name == name {
			return region
		}
	}
	return doctor.RegionReport{}
}

// confirm asks, and takes for no what is not clearly yes.
func confirm(ctx context.Context, in io.Reader, out io.Writer, question string) (bool, error) {
	if _, err := fmt.Fprintf(out, "%s [y/N] ", question); err != nil {
		return false, err // nobody has seen what the answer would be to
	}
	answer, err := bufio.NewReader(interruptible(ctx, in)).ReadString('\n')
	if err != nil {
		fmt.Fprintln(out)
		if err == io.EOF {
			err = nil
		}
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}
