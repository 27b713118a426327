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

	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
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
			"With --repair it first corrects counters that do not fit what they count, removes aliases that name no key, and\n" +
			"finishes keys that a process left half made, unless opening the state directory has done so; with --undecided,\n" +
			"after asking, also those that were left before a restart of the machine. It never destroys\n" +
			"an object that no key has: such objects are of other applications, or of keys newer than a restored backup.\n" +
			"--destroy-object destroys one of them in place of the examination, after asking.\n\n" +
			"--destroy-half-made, in place of the examination and after asking, destroys what a process has left in a\n" +
			"SoftHSM token that was killed while it made a key: objects without a CKA_ID, a label and a key, which no record\n" +
			"can want. It takes a minute: only those are destroyed that are there at both of two looks, so that nothing is\n" +
			"taken from another process that is making a key.\n\n" +
			"--retire-region, in place of the examination and after asking, sets the keys of a region aside whose HSM is\n" +
			"gone for good, so that config.yaml need not name it. Nothing is destroyed: put back there with its token it\n" +
			"works again.\n\n" +
			"--rebind, in place of the examination and after asking, says that the token which config.yaml names for a\n" +
			"region holds its keys, although it does not prove to be the one that did: after it was restored from a copy\n" +
			"that is older than the region's binding key, or replaced. It tells how many of the keys are in it.\n\n" +
			"--probe-token-objects, in place of the examination and after asking, tries the key specs of which the\n" +
			"examination says that they were not tried, since the token makes no keys that end with their session\n" +
			"(YubiHSM2): it makes a key of each in the token, uses it and destroys it again. --region names another token\n" +
			"than the default one.\n\n" +
			"--seal, in place of the examination and after asking, seals every record of the store by a key that is made in\n" +
			"the token: from then on a record that was edited, moved or put back behind the program's back is refused. It\n" +
			"lists first what it is going to vouch for. No other process may have the store open. --reseal does so for a\n" +
			"store that is sealed: after a restore, or when the token of its seals is gone for good.\n\n" +
			"With --migrate it first brings a store of an older version of the program to this one, which no other command\n" +
			"but serve does: no process may have the store open, the older program cannot use it afterwards, and a\n" +
			"verified copy is kept beside it.\n\n" +
			"With --crosscheck another PKCS#11 library, in a process of its own, makes a MAC with every enabled key, which\n" +
			"must be equal to the one of this program. For that the state directory is opened as for any other command,\n" +
			"which may remove keys that a process left half made.",
		Example: "  pkcs11kms doctor\n  pkcs11kms doctor --crosscheck --json\n  pkcs11kms doctor --repair\n" +
			"  pkcs11kms doctor --destroy-object 0a1b2c3d --yes",
		Args: noArguments,
	}
	var o examination
	cmd.Flags().BoolVar(&o.crosscheck, "crosscheck", false, "compare with the MACs of an independent PKCS#11 library")
	cmd.Flags().BoolVar(&o.tryPIN, "try-pin", false, "log in although the token counts wrong PINs: after the PIN file was corrected")
	cmd.Flags().BoolVar(&o.repair, "repair", false, "correct the store first, and tell what was done")
	cmd.Flags().BoolVar(&o.undecided, "undecided", false,
		"with --repair: also remove keys left half made by processes of which nobody can say whether they are alive")
	cmd.Flags().BoolVar(&o.migrate, "migrate", false, "bring a store of an older version to this one first, and keep a copy")
	asJSON := cmd.Flags().Bool("json", false, "print the report as JSON")
	destroy := cmd.Flags().String("destroy-object", "", "destroy the object with this CKA_ID (hexadecimal), which no key has")
	halfMade := cmd.Flags().Bool("destroy-half-made", false, "destroy what killed processes have left of keys that they were making")
	retire := cmd.Flags().String("retire-region", "", "set the keys of this region aside, whose HSM is gone for good")
	rebind := cmd.Flags().String("rebind", "", "say that the keys of this region are in the token that is there now")
	probe := cmd.Flags().Bool("probe-token-objects", false, "try by keys that are made in the token what it lets nobody try otherwise")
	seal := cmd.Flags().Bool("seal", false, "list all records, and seal them as they are")
	reseal := cmd.Flags().Bool("reseal", false, "list all records, and seal them anew as they are")
	agreed := cmd.Flags().Bool("yes", false,
		"destroy the objects, retire or rebind the region, seal the records, try token objects, or remove undecided keys, unasked")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkDestroyFlags(cmd); err != nil {
			return err
		}
		if cmd.Flags().Changed("retire-region") {
			return a.retireRegion(cmd.Context(), *retire, *agreed)
		}
		if cmd.Flags().Changed("rebind") {
			return a.rebind(cmd.Context(), *rebind, *agreed)
		}
		if *seal || *reseal {
			return a.sealRecords(cmd.Context(), *reseal, *agreed)
		}
		if *probe {
			return a.probeTokenObjects(cmd.Context(), *agreed)
		}
		if cmd.Flags().Changed("destroy-object") {
			return a.destroyObject(cmd.Context(), *destroy, *agreed)
		}
		if *halfMade {
			return a.destroyHalfMade(cmd.Context(), *agreed)
		}
		if err := a.agreeUndecided(cmd.Context(), o, *agreed); err != nil {
			return err
		}
		report, err := a.examine(cmd.Context(), o)
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

// checkDestroyFlags keeps what is done after asking apart from the examination.
func checkDestroyFlags(cmd *cobra.Command) error {
	given := func(flag string) bool { return cmd.Flags().Changed(flag) }
	changes := []string{"destroy-half-made", "destroy-object", "probe-token-objects", "rebind", "reseal", "retire-region", "seal"}
	for _, change := range changes {
		if !given(change) {
			continue
		}
		for _, flag := range slices.Concat([]string{"crosscheck", "json", "migrate", "repair", "try-pin"}, changes) {
			if flag != change && given(flag) {
				return usagef("--%s does not go with --%s", flag, change)
			}
		}
		return nil
	}
	if given("undecided") && !given("repair") {
		return usagef("--undecided goes with --repair only")
	}
	if given("yes") && !given("undecided") {
		return usagef("--yes goes with --destroy-half-made, --destroy-object, --probe-token-objects, --rebind, --reseal, --retire-region, " +
			"--seal and --undecided only")
	}
	return nil
}

// examination is what doctor does beside looking.
type examination struct {
	crosscheck, migrate, repair, undecided, tryPIN bool
}

// examine makes the report. A wrong command line is an error, and what keeps the store from being repaired; else a state
// directory that cannot be read is a finding.
func (a *app) examine(ctx context.Context, o examination) (*doctor.Report, error) {
	cfg, err := a.oneShotConfig()
	var usage *usageError
	if errors.As(err, &usage) {
		return nil, err
	}
	if err != nil {
		finding := doctor.Check{Area: "config", Subject: "configuration", Status: doctor.StatusError, Text: err.Error(), Hint: hintOf(err)}
		return &doctor.Report{Checks: []doctor.Check{finding}, Regions: []doctor.RegionReport{}, FIPS140: doctor.RunningFIPS140()}, nil
	}
	allowLowPIN(cfg, o.tryPIN)
	var changes []doctor.Check
	if o.migrate {
		if changes, err = migrate(ctx, cfg); err != nil {
			return nil, err
		}
	}
	if o.repair {
		repairs, err := repair(ctx, cfg, o.undecided)
		if err != nil {
			return nil, err // and no second log-in: it may have been a wrong PIN
		}
		changes = append(changes, repairs...)
		allowLowPIN(cfg, false) // that was the one attempt
	}
	report := doctor.Examine(ctx, cfg.Config, cfg.StorePath, cfg.OpenStore)
	allowLowPIN(cfg, false)
	report.Checks = append(append(changes, report.Checks...), auditChecks(ctx, cfg)...)
	switch {
	case ctx.Err() == nil && o.crosscheck:
		report.Checks = append(report.Checks, crosscheckAll(ctx, cfg, report)...)
	case ctx.Err() != nil && len(changes) > 0:
		return report, nil // whose errors tell the interrupt: what was changed must be told
	}
	return report, ctx.Err()
}

// migrate brings the store to the version of this program and tells so as a finding of the report.
func migrate(ctx context.Context, cfg statedir.Config) ([]doctor.Check, error) {
	done, err := cfg.Migrate(ctx)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("is of version %d already", done.To)
	if done.From != done.To {
		text = fmt.Sprintf("brought from version %d to %d; as it was before it is kept in %s", done.From, done.To, done.Copy)
	}
	return []doctor.Check{{Area: "migrate", Subject: "store", Status: doctor.StatusOK, Text: text}}, nil
}

// repair corrects the store and tells what it did as the first findings of the report.
func repair(ctx context.Context, cfg statedir.Config, undecided bool) (checks []doctor.Check, err error) {
	client, err := statedir.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer closing(client, &err)
	correct := doctor.Repair
	if undecided {
		correct = doctor.RepairUndecided
	}
	done, failure := correct(ctx, client)
	for _, text := range done {
		checks = append(checks, doctor.Check{Area: "repair", Subject: "store", Status: doctor.StatusOK, Text: text})
	}
	switch {
	case failure != nil:
		checks = append(checks, doctor.Check{Area: "repair", Subject: "store", Status: doctor.StatusError,
			Text: oneLine(failure.Error()), Hint: hintOf(failure)})
	case len(done) == 0:
		checks = append(checks, doctor.Check{Area: "repair", Subject: "store", Status: doctor.StatusOK, Text: "nothing to correct"})
	}
	return checks, nil
}

func allowLowPIN(cfg statedir.Config, allow bool) {
	for name, region := range cfg.Regions {
		region.TryLowPIN = allow
		cfg.Regions[name] = region
	}
}

func (a *app) printReport(report *doctor.Report, asJSON bool) error {
	for i, check := range report.Checks {
		report.Checks[i].Hint = a.followable(check.Hint)
	}
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
	return a.write(visibleJSON(text.Bytes()))
}

// describe writes the report for people: the checks of an area under its name, hints below what is wrong.
func describe(report *doctor.Report) string {
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
	fmt.Fprintln(&b, report.FIPS140)
	fmt.Fprintf(&b, "%d ok, %s, %s\n", counts[doctor.StatusOK],
		counted(counts[doctor.StatusWarning], "warning"), counted(counts[doctor.StatusError], "error"))
	return b.String()
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func describeCheck(b *strings.Builder, check doctor.Check) {
	fmt.Fprintf(b, "  %-8s %s: %s\n", check.Status, oneLine(check.Subject), oneLine(check.Text))
	if check.Hint == "" {
		return
	}
	for line := range strings.Lines(check.Hint) {
		fmt.Fprintf(b, "           hint: %s\n", oneLine(strings.TrimSuffix(line, "\n")))
	}
}
