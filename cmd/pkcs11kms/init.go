package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

func (a *app) initCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "init (--softhsm | --token URI) --state-dir DIR [flags]",
		GroupID: groupSetup,
		Short:   "Make a state directory",
		Long: "Make a state directory.\n\n" +
			"The directory holds the configuration and the keys' metadata; the keys themselves are in the token. With\n" +
			"--softhsm a SoftHSM token with a random PIN is made inside of it, for development and tests. With --token an\n" +
			"existing token is used, named by a PKCS#11 URI (RFC 7512).",
		Example: "  pkcs11kms init --softhsm --state-dir ./kms\n" +
			"  pkcs11kms init --token 'pkcs11:token=kms?module-path=/usr/lib/libCryptoki2.so&pin-source=file:/etc/pkcs11kms/pin' \\\n" +
			"      --account-id 111122223333 --region us-west-2 --state-dir /var/lib/pkcs11kms",
		Args:                  noArguments,
		DisableFlagsInUseLine: true,
	}
	var o statedir.InitOptions
	cmd.Flags().BoolVar(&o.SoftHSM, "softhsm", false, "make a SoftHSM token in the directory")
	cmd.Flags().StringVar(&o.Token, "token", "", "the PKCS#11 URI of an existing token")
	cmd.Flags().StringVar(&o.AccountID, "account-id", "", "the 12 digits that every ARN carries (default "+pkcs11kms.DefaultAccountID+")")
	cmd.Flags().BoolVar(&o.TryLowPIN, "try-pin", false, "log in although the token counts wrong PINs: after the PIN was corrected")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if o.Dir, err = a.directory(); err != nil {
			return err
		}
		if o.SoftHSM == (o.Token != "") {
			return usagef("exactly one of the arguments --softhsm and --token is required")
		}
		if o.SoftHSM && o.TryLowPIN {
			return usagef("--try-pin does not go with --softhsm, which makes a new token with a PIN of its own")
		}
		if err := a.checkNames(cmd, o.AccountID); err != nil {
			return err
		}
		o.Region = a.region
		if !o.SoftHSM {
			o.PIN = pinFromEnvironment()
		}
		if err := statedir.Init(cmd.Context(), o); err != nil {
			return err
		}
		made := change{fmt.Sprintf("making state directory %q", o.Dir), "use it: export " + envStateDir.name + "=" + shellQuote(o.Dir)}
		return made.shown(a.printMade(o))
	}
	return cmd
}

// What the names of accounts and regions look like. Init checks them too, but cannot say that it was the command line.
var (
	accountPattern = regexp.MustCompile(`^[0-9]{12}$`)
	regionPattern  = regexp.MustCompile(`^([a-z]+-){2,3}[0-9]+$`)
)

func (a *app) checkNames(cmd *cobra.Command, account string) error {
	given := func(flag string) bool { return cmd.Flags().Changed(flag) }
	switch {
	case given("account-id") && !accountPattern.MatchString(account):
		return usagef("argument --account-id: %q is not 12 digits", account)
	case given("region") && !regionPattern.MatchString(a.region):
		return usagef("argument --region: %q is not of the form us-east-1", a.region)
	}
	return nil
}

// printMade tells what stands now and what comes next.
func (a *app) printMade(o statedir.InitOptions) error {
	cfg, err := statedir.Load(o.Dir)
	if err != nil {
		return err
	}
	token := "the token " + o.Token
	if o.SoftHSM {
		token = "a SoftHSM token of its own; it is no HSM: whoever reads the directory has the keys"
	}
	return a.printf("made the state directory %s\n  account  %s\n  region   %s\n  token    %s\n\nnext:\n"+
		"  export %s=%s\n  pkcs11kms create-key --key-spec HMAC_256 --key-usage GENERATE_VERIFY_MAC\n",
		o.Dir, cfg.AccountID, cfg.DefaultRegion, token, envStateDir.name, shellQuote(o.Dir))
}

// shellQuote makes a word of the text for a POSIX shell.
func shellQuote(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./+,:@%", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
