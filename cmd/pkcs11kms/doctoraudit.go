package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// longestCall is longer than a change may take.
const longestCall = 5 * time.Minute

// mostIntents bounds how many changes without an end doctor lists.
const mostIntents = 20

// auditedChange is a change of the state directory by an operator that is told to the audit log once somebody has agreed to it. It is for
// one goroutine.
type auditedChange struct {
	start func() (end func(error) error, err error)
	ended func(error) error // nil until it has begun
}

func begun(ctx context.Context, cfg statedir.Config, operation string, in map[string]any) *auditedChange {
	return &auditedChange{start: func() (func(error) error, error) { return cfg.Audited(ctx, operation, in) }}
}

// begin tells the audit log, where the change is agreed to.
func (c *auditedChange) begin(agreed bool, err error) (bool, error) {
	if err != nil || !agreed {
		return agreed, err
	}
	c.ended, err = c.start()
	return err == nil, err
}

// end tells it what became of the change, and returns that.
func (c *auditedChange) end(err error) error {
	if c.ended == nil {
		return err
	}
	return c.ended(err)
}

// longUnsealed is how old a record becomes before doctor tells that no seal covers it: a server seals within a minute.
const longUnsealed = 24 * time.Hour

// auditChecks are what doctor says of the audit log. Whether it was changed, audit verify tells, which reads all of it.
func auditChecks(ctx context.Context, cfg statedir.Config) []doctor.Check {
	check := func(status, text, hint string) doctor.Check {
		return doctor.Check{Area: "audit", Subject: cfg.AuditDir, Status: status, Text: text, Hint: hint}
	}
	if cfg.Audit == audit.Discard {
		return []doctor.Check{check(doctor.StatusWarning, "nothing is recorded: config.yaml has audit.file: off", "")}
	}
	heads, err := audit.Heads(cfg.AuditDir)
	if errors.Is(err, fs.ErrNotExist) {
		return []doctor.Check{check(doctor.StatusOK, "there is no audit log yet", "")}
	}
	var open []audit.OpenIntent
	if err == nil {
		open, err = audit.OpenIntents(cfg.AuditDir, time.Now().Add(-longestCall))
	}
	if err != nil {
		return []doctor.Check{check(doctor.StatusError, err.Error(), "see what was changed: pkcs11kms audit verify")}
	}
	records := uint64(0)
	for _, head := range heads {
		records += head.Seq
	}
	checks := []doctor.Check{check(doctor.StatusOK, fmt.Sprintf("%s in %s; whether they are as they were written: pkcs11kms audit verify",
		counted(int(records), "record"), counted(len(heads), "chain")), "")}
	for _, u := range longUnsealedRecords(ctx, cfg) {
		checks = append(checks, check(doctor.StatusWarning, fmt.Sprintf("chain %s is not sealed since %s, from record %d on", u.Chain,
			u.Time.Format(time.RFC3339), u.Seq), "start a server, or see in its log why it cannot seal: it seals what commands have left, too"))
	}
	for i, o := range open {
		if i == mostIntents {
			checks = append(checks, check(doctor.StatusWarning, fmt.Sprintf("and %s more like it", counted(len(open)-i, "change")), ""))
			break
		}
		about := ""
		if len(o.ARNs) > 0 {
			about = " of " + strings.Join(o.ARNs, " and ")
		}
		checks = append(checks, check(doctor.StatusWarning, fmt.Sprintf("%s%s at %s by %s has no end (requestID %s): its process ended meanwhile",
			o.EventName, about, o.Time.Format(time.RFC3339), firstOf(o.Principal, "the service itself"), o.RequestID),
			"look whether it was done; nothing was answered, so a client that repeats does it again"))
	}
	return checks
}

// longUnsealedRecords are the first records of chains that no seal covers, though that was to be expected: where no server was ever there,
// nothing is sealed. What cannot be read is told elsewhere.
func longUnsealedRecords(ctx context.Context, cfg statedir.Config) (old []audit.Unsealed) {
	seals, err := cfg.AuditSeals(ctx)
	if err != nil || !seals.Key {
		return nil
	}
	all, err := audit.FirstUnsealed(cfg.AuditDir, seals.Sealed)
	if err != nil {
		return nil
	}
	for _, u := range all {
		if time.Since(u.Time) > longUnsealed {
			old = append(old, u)
		}
	}
	return old
}
