package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/halfmade"
)

// miscount puts a wrong number of keys in the store of a state directory: miscount DIR N
func miscount(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ctx := context.Background()
	store, err := sqlite.Open(ctx, filepath.Join(ts.MkAbs(args[0]), "kms.db"), sqlite.Options{})
	ts.Check(err)
	rec, err := store.Get(ctx, keystore.CounterRef(pkcs11kms.DefaultRegion, pkcs11kms.DefaultAccountID, keystore.CounterKeys))
	if err == nil {
		wrong := keystore.Counter{Region: rec.Ref.Region, Account: rec.Ref.Account, Name: keystore.CounterKeys, N: n}
		_, err = store.Commit(ctx, wrong.Put(rec.Version))
	}
	ts.Check(errors.Join(err, store.Close()))
}

// halfMake leaves in the token of a state directory what a process leaves that is killed while it makes a secret key: half-make DIR
func halfMake(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(leaveHalfMade(ts.MkAbs(args[0])))
}

// leaveHalfMade is halfMake for the one token of a state directory.
func leaveHalfMade(stateDir string) error {
	const secretKey, genericSecret = 4, 0x10
	_, err := halfmade.Leave(filepath.Join(stateDir, "softhsm2.conf"), "", secretKey, genericSecret)
	return err
}

// haveTool tells whether a program of the part named is there. That it is missing is an error where PKCS11KMS_REQUIRE
// names the part.
func haveTool(part, name string) (bool, error) {
	if _, err := exec.LookPath(name); err == nil {
		return true, nil
	}
	for required := range strings.SplitSeq(os.Getenv(softhsm.EnvRequire), ",") {
		if required = strings.TrimSpace(required); required == part || required == "all" {
			return false, fmt.Errorf("%s=%s: %s is missing", softhsm.EnvRequire, required, name)
		}
	}
	return false, nil
}
