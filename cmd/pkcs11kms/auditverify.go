package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

func (a *app) auditVerifyCommand() *cobra.Command {
	cmd := verb(groupAdmin, "verify [FILE ...] [--public-key FILE] [--head FILE]",
		"Find what was changed in the audit log, or taken out of it",
		"Each record holds the hash of the one before, and seals in the log hold signatures over how far it went. Finds\n"+
			"records that were edited, removed, put in another order or brought in from elsewhere, files that have gone,\n"+
			"and what was made anew, with right hashes, by somebody who has not the use of the HSM's key; names the record\n"+
			"where it shows, and tells what no seal covers. The exit code is 1 where something was found.\n\n"+
			"In a state directory the seals are compared with what the store knows of them, and verified by the key that\n"+
			"the store names, unless --public-key gives one: the output of \"audit public-key\", kept elsewhere. --head\n"+
			"compares with the output of \"audit head\". --store compares the records of keys, aliases, users, roles and access\n"+
			"keys with what the log says was written last, and with the checkpoints of all of them, which asks the token for\n"+
			"the key of their seals. FILEs are looked at by themselves, wherever they are; they keep their names, and need\n"+
			"neither state directory nor token.",
		"pkcs11kms audit verify",
		"pkcs11kms audit verify --public-key audit.pem --head head.json",
		"pkcs11kms audit verify --public-key audit.pem copied/000001-*.jsonl*")
	cmd.Annotations = map[string]string{allRegions: ""}
	cmd.Args = cobra.ArbitraryArgs
	head := cmd.Flags().String("head", "", "a file with what audit head has printed")
	key := cmd.Flags().String("public-key", "", "a file with what audit public-key has printed, or with several of that")
	store := cmd.Flags().Bool("store", false, "compare the store with the log, too")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *store && len(args) > 0 {
			return usagef("--store goes with the audit log of a state directory, and not with files")
		}
		known, err := readKnown(*head, *key)
		if err != nil {
			return err
		}
		if len(args) > 0 {
			return a.verifyFiles(args, known)
		}
		return a.verifyDirectory(cmd.Context(), known, *store)
	}
	return cmd
}

// readKnown reads what the log is to be compared with.
func readKnown(head, key string) (known audit.Known, err error) {
	if known.Heads, err = readHeads(head); err != nil || key == "" {
		return known, err
	}
	text, err := os.ReadFile(key)
	var keys audit.SealKeys
	if err == nil {
		keys, err = audit.ParseSealKeys(text)
	}
	if err != nil {
		return known, &environmentError{fmt.Errorf("reading the public key in %q: %w", key, err), "give a file that audit public-key has printed"}
	}
	known.Check, known.MustBeSealed = keys.Check, true
	return known, nil
}

func (a *app) verifyFiles(files []string, known audit.Known) error {
	v, err := audit.VerifyFiles(files, known)
	if err != nil {
		return &environmentError{err, ""}
	}
	if known.Check == nil && v.Seals > 0 {
		v.Notes = append(v.Notes, counted(v.Seals, "seal")+" not verified: give the key by --public-key")
	}
	return a.showVerification(v, known)
}

// verifyDirectory verifies the log of the state directory. What the store says is read before the log is: that only grows.
func (a *app) verifyDirectory(ctx context.Context, known audit.Known, store bool) error {
	dir, err := a.auditDirectory()
	if err != nil {
		return err
	}
	note, done, err := a.fromStore(ctx, &known)
	if err != nil {
		return err
	}
	v, err := audit.VerifyDir(dir, known)
	if err == nil && note != "" {
		v.Notes = append(v.Notes, note)
	}
	if err == nil && store {
		err = a.compareStore(ctx, dir, v)
	}
	if err := errors.Join(err, done()); err != nil {
		return err
	}
	return a.showVerification(v, known)
}

// compareStore adds what the store says otherwise than the log.
func (a *app) compareStore(ctx context.Context, dir string, v *audit.Verification) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	found, err := audit.CompareStore(dir, v.Check, func() (audit.StoredRecords, error) {
		stored, err := cfg.StoredRecords(ctx)
		if errors.Is(err, statedir.ErrRolledBack) {
			v.Problems = append(v.Problems, audit.Problem{File: cfg.StorePath, Text: err.Error()})
			err = nil
		}
		return stored, err
	})
	if errors.Is(err, statedir.ErrNoSeals) {
		return &environmentError{err, "seal them first: pkcs11kms doctor --seal"}
	}
	if err != nil {
		return err
	}
	for _, name := range found.Edited {
		found.Problems = append(found.Problems, fmt.Sprintf("the record %s of the store is not as it was sealed", name))
	}
	for _, problem := range found.Problems {
		v.Problems = append(v.Problems, audit.Problem{File: cfg.StorePath, Text: problem})
	}
	v.Notes = append(append(v.Notes, found.Notes...),
		fmt.Sprintf("the store was compared with what the log says of %s", counted(found.Compared, "record")))
	return nil
}

// fromStore takes from the store what is known of seals. A store that cannot be read, which is told by the note, keeps nobody from looking
// at the log. done is to be called in the end.
func (a *app) fromStore(ctx context.Context, known *audit.Known) (note string, done func() error, err error) {
	done = func() error { return nil }
	cfg, err := a.config()
	var seals statedir.AuditSeals
	if err == nil {
		seals, err = cfg.AuditSeals(ctx)
	}
	if err != nil {
		return "the log is not compared with what the store knows of its seals: " + err.Error(), done, nil
	}
	known.Sealed = seals.Sealed
	switch {
	case known.Check != nil || !seals.Key:
	case slices.Contains(slices.Collect(maps.Values(seals.Keys)), ""):
		known.Check, done, err = cfg.AuditMACs(ctx)
		note = "the seals are MACs, which were verified by the token: whoever may use it can make others"
	default:
		var keys audit.SealKeys
		if keys, err = audit.ParseSealKeys([]byte(strings.Join(slices.Collect(maps.Values(seals.Keys)), ""))); err == nil {
			known.Check = keys.Check
			note = "the seals were verified by the key that the store names; --public-key verifies them by one that was kept elsewhere"
		}
	}
	return note, done, err
}

// headsFile is what audit head prints.
type headsFile struct {
	Time  time.Time    `json:"time"`
	Heads []audit.Head `json:"heads"`
}

func readHeads(path string) ([]audit.Head, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	var file headsFile
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err == nil && len(file.Heads) == 0 {
		err = errors.New("it has no heads")
	}
	if err != nil {
		return nil, &environmentError{fmt.Errorf("reading the heads in %q: %w", path, err), "give a file that audit head has printed"}
	}
	return file.Heads, nil
}

// showVerification prints what was found, and ends with the exit code 1 where that is a fault.
func (a *app) showVerification(v *audit.Verification, known audit.Known) error {
	for _, note := range v.Notes {
		if err := a.printf("note: %s\n", note); err != nil {
			return err
		}
	}
	for _, problem := range v.Problems {
		if err := a.printf("INVALID: %s\n", problem); err != nil {
			return err
		}
	}
	if known.Check != nil {
		if err := a.showSeals(v); err != nil {
			return err
		}
	}
	verdict, more := "valid", "; of the ends of the chains nothing can be said without --head"
	if len(known.Heads) > 0 || known.Check != nil {
		more = ""
	}
	if len(v.Problems) > 0 {
		verdict, more = "INVALID", ""
	}
	err := a.printf("%s: %s, %s, %s%s\n", verdict, counted(len(v.Heads), "chain"), counted(v.Files, "file"),
		counted(int(v.Records), "record"), more)
	if err == nil && len(v.Problems) > 0 {
		err = exitError(exitRefused)
	}
	return err
}

// showSeals prints what the seals cover.
func (a *app) showSeals(v *audit.Verification) error {
	text := "sealed: no"
	if v.Seals > 0 {
		text = fmt.Sprintf("sealed: %s, the newest of %s", counted(v.Seals, "valid seal"), v.LastSeal.Format(time.RFC3339))
	}
	if err := a.printf("%s\n", text); err != nil {
		return err
	}
	for _, u := range v.Unsealed {
		err := a.printf("unsealed: %s of chain %s since %s, from record %d on\n", counted(int(u.Records), "record"), u.Chain,
			u.Time.Format(time.RFC3339), u.Seq)
		if err != nil {
			return err
		}
	}
	return nil
}
