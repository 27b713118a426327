package main

import (
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

// auditChecks are what doctor says of the audit log. Whether it was changed, audit verify tells, which reads all of it.
func auditChecks(cfg statedir.Config) []doctor.Check {
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
