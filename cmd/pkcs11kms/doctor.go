package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

func (a *app) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "doctor [flags]",
		GroupID: groupSetup,
		Short:   "Examine the state directory, the token and every key",
		Long: "Examine the state directory, the token and every key.\n\n" +
			"Reads the whole store, probes what the token can do, and looks at the object of every key. Says what is wrong\n" +
			"and what to do about it. The examination changes nothing. The exit code is 3 when something is wrong; warnings\n" +
			"are not.\n\n" +
			"With --crosscheck another PKCS#11 library, in a process of its own, makes a MAC with every enabled key, which\n" +
			"must be equal to the one of this program. For that the state directory is opened as for any other command,\n" +
			"which may remove keys that a process left half made.",
		Example: "  pkcs11kms doctor\n  pkcs11kms doctor --crosscheck --json",
		Args:    noArguments,
	}
	crosscheck := cmd.Flags().Bool("crosscheck", false, "compare with the MACs of an independent PKCS#11 library")
	asJSON := cmd.Flags().Bool("json", false, "print the report as JSON")
	tryPIN := cmd.Flags().Bool("try-pin", false, "log in although the token counts wrong PINs: after the PIN file was corrected")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		report, err := a.examine(cmd.Context(), *crosscheck, *tryPIN)
		if err != nil {
			return err
		}
		if err := a.printReport(report, *asJSON); err != nil {
			return err
		}
		if !report.OK() {
			return exitError(exitEnvironment)
		}
		return nil
	}
	return cmd
}

// examine makes the report. Only a wrong command line is an error: a state directory that cannot be read is a finding.
func (a *app) examine(ctx context.Context, crosscheck, tryPIN bool) (*pkcs11kms.Report, error) {
	cfg, err := a.oneShotConfig()
	var usage *usageError
	if errors.As(err, &usage) {
		return nil, err
	}
	if err != nil {
		finding := pkcs11kms.Check{Area: "config", Subject: "configuration", Status: pkcs11kms.StatusError, Text: err.Error(), Hint: hintOf(err)}
		return &pkcs11kms.Report{Checks: []pkcs11kms.Check{finding}, Regions: []pkcs11kms.RegionReport{}}, nil
	}
	allowLowPIN(cfg, tryPIN)
	report := pkcs11kms.Doctor(ctx, cfg)
	allowLowPIN(cfg, false) // that was the one attempt
	if crosscheck && ctx.Err() == nil {
		report.Checks = append(report.Checks, crosscheckAll(ctx, cfg, report)...)
	}
	return report, ctx.Err()
}

func allowLowPIN(cfg pkcs11kms.Config, allow bool) {
	for name, region := range cfg.Regions {
		region.TryLowPIN = allow
		cfg.Regions[name] = region
	}
}

func (a *app) printReport(report *pkcs11kms.Report, asJSON bool) error {
	if !asJSON {
		return a.write([]byte(describe(report)))
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "    ")
	if err := enc.Encode(report); err != nil {
		return err
	}
	return a.write(text.Bytes())
}

// describe writes the report for people: the checks of an area under its name, hints below what is wrong.
func describe(report *pkcs11kms.Report) string {
	var areas []string
	counts := map[string]int{}
	for _, check := range report.Checks {
		if !slices.Contains(areas, check.Area) {
			areas = append(areas, check.Area)
		}
		counts[check.Status]++
	}
	var b strings.Builder
	for _, area := range areas {
		fmt.Fprintln(&b, area)
		for _, check := range report.Checks {
			if check.Area == area {
				describeCheck(&b, check)
			}
		}
	}
	fmt.Fprintf(&b, "%d ok, %s, %s\n", counts[pkcs11kms.StatusOK],
		counted(counts[pkcs11kms.StatusWarning], "warning"), counted(counts[pkcs11kms.StatusError], "error"))
	return b.String()
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func describeCheck(b *strings.Builder, check pkcs11kms.Check) {
	fmt.Fprintf(b, "  %-8s %s: %s\n", check.Status, check.Subject, check.Text)
	if check.Hint == "" {
		return
	}
	for line := range strings.Lines(check.Hint) {
		fmt.Fprintf(b, "           hint: %s\n", strings.TrimSuffix(line, "\n"))
	}
}
