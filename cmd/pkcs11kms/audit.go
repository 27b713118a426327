package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

func (a *app) auditCommand() *cobra.Command {
	cmd := operations("audit", groupAdmin, "The audit log: who used which key when, and whether that is what was written",
		"The log is in the directory \"audit\" of the state directory: a line of JSON a call, of the shape of AWS\n"+
			"CloudTrail's. These commands read it, beside servers that write to it.",
		"pkcs11kms audit search --key-id alias/tokens --since 24h")
	cmd.AddGroup(&cobra.Group{ID: groupAdmin, Title: "Operations:"})
	cmd.AddCommand(a.auditVerifyCommand(), a.auditHeadCommand(), a.auditPublicKeyCommand(),
		a.auditSearchCommand(), a.auditTailCommand(), a.auditStatsCommand())
	return cmd
}

// auditDirectory is that of the state directory's log.
func (a *app) auditDirectory() (string, error) {
	dir, err := a.directory()
	if err != nil {
		return "", err
	}
	dir = statedir.AuditDir(dir)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", &environmentError{fmt.Errorf("there is no audit log at %q", dir),
			"it is made by the first command or server that opens the state directory, unless config.yaml has audit.file: off"}
	}
	return dir, nil
}

func (a *app) auditHeadCommand() *cobra.Command {
	cmd := verb(groupAdmin, "head", "Print the last record of each chain, to be kept elsewhere",
		"What is printed shows later, by \"audit verify --head FILE\", that nothing before it was cut off, changed or\n"+
			"made anew. Keep it where nobody who may write to this machine may write: in another system, or on paper.",
		"pkcs11kms audit head > head.json")
	cmd.Annotations = map[string]string{printsResponse: "", allRegions: ""}
	cmd.RunE = func(*cobra.Command, []string) error {
		dir, err := a.auditDirectory()
		if err != nil {
			return err
		}
		heads, err := audit.Heads(dir)
		if err != nil {
			return err
		}
		text, err := json.Marshal(headsFile{Time: time.Now().UTC().Truncate(time.Second), Heads: heads})
		if err != nil {
			return err
		}
		return a.printJSON("AuditHead", text)
	}
	return cmd
}

func (a *app) auditTailCommand() *cobra.Command {
	cmd := verb(groupAdmin, "tail [-f] [-n NUMBER]", "Print the newest records of the audit log, a line each",
		"With -f it goes on with each record that is written, by whatever process, until it is interrupted.",
		"pkcs11kms audit tail",
		"pkcs11kms audit tail -n 1000 | cut -c 1-200")
	cmd.Annotations = map[string]string{allRegions: ""}
	follow := cmd.Flags().BoolP("follow", "f", false, "go on with what is written from now on")
	number := cmd.Flags().IntP("lines", "n", 10, "how many to begin with")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *number < 0 {
			return usagef("argument --lines: %d is negative", *number)
		}
		dir, err := a.auditDirectory()
		if err != nil {
			return err
		}
		return audit.Tail(cmd.Context(), dir, *number, *follow, func(line []byte) error {
			return a.write(append(visibleJSON(bytes.Clone(line)), '\n'))
		})
	}
	return cmd
}

func (a *app) auditSearchCommand() *cobra.Command {
	cmd := verb(groupAdmin, "search [--event-name NAME] [--key-id KEY] [--principal PRINCIPAL] [--since TIME] [--until TIME] "+
		"[--error-code CODE] [--account-id ID]", "Find records of the audit log",
		"Prints the records that fit all of what is given, the oldest first; those before a change, which have the\n"+
			"same requestID as the record of what became of it, among them (eventType Pkcs11KmsIntent). Closed files have an\n"+
			"index beside them, so that little of them is read; one that is missing is made first. TIME is 2026-01-02,\n"+
			"2026-01-02T15:04:05Z, or so long ago: 90m, 24h.",
		"pkcs11kms audit search --event-name GenerateMac --key-id alias/tokens --since 24h",
		"pkcs11kms audit search --principal alice --error-code AccessDenied --query 'Events[].[eventTime,eventName]' --output text")
	cmd.Annotations = map[string]string{printsResponse: "", allRegions: ""}
	var q audit.Query
	var since, until string
	flags := cmd.Flags()
	flags.StringVar(&q.EventName, "event-name", "", "the operation, such as GenerateMac")
	flags.StringVar(&q.KeyID, "key-id", "", "key id, key ARN, alias name or alias ARN, of the request or of what it led to")
	flags.StringVar(&q.Principal, "principal", "", "ARN, name of a user, or access key id")
	flags.StringVar(&q.ErrorCode, "error-code", "", "such as AccessDenied, or any")
	flags.StringVar(&q.Account, "account-id", "", "only what was recorded for this account: its calls, and those of others on its keys")
	flags.StringVar(&since, "since", "", "not before this time")
	flags.StringVar(&until, "until", "", "before this time")
	flags.IntVar(&q.Max, "max-items", 100, "the newest so many; 0: all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		now := time.Now()
		if q.Since, err = parseMoment("since", since, now); err != nil {
			return err
		}
		if q.Until, err = parseMoment("until", until, now); err != nil {
			return err
		}
		if q.Max < 0 {
			return usagef("argument --max-items: %d is negative", q.Max)
		}
		return a.searchAudit(cmd.Context(), q)
	}
	return cmd
}

// parseMoment reads a time, or how long ago it was.
func parseMoment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, usagef("argument --%s: %q is neither a time such as 2026-01-02T15:04:05Z nor a duration such as 24h", flag, text)
}

func (a *app) searchAudit(ctx context.Context, q audit.Query) error {
	dir, err := a.auditDirectory()
	if err != nil {
		return err
	}
	q.Progress = a.indexing()
	lines, err := audit.Search(ctx, dir, q)
	if err != nil {
		return err
	}
	text := append([]byte(`{"Events":[`), bytes.Join(lines, []byte{','})...)
	return a.printJSON("AuditSearch", append(text, `]}`...))
}
