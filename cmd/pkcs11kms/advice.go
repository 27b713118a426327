package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/smithy-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// refusal is an error of the API beside the command line that it answers.
type refusal struct {
	flags *pflag.FlagSet
	verb  string
	text  string
}

// given returns the values of a flag on the command line.
func (r refusal) given(flag string) []string {
	f := r.flags.Lookup(flag)
	if f == nil || !f.Changed {
		return nil
	}
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return list.GetSlice()
	}
	return []string{f.Value.String()}
}

// advisers find the reason of an error of the API in the command line, by the code of the error.
var advisers = map[string]func(refusal) string{
	"NotFoundException":                adviseKeyID,
	"ValidationException":              adviseValues,
	"UnsupportedOperationException":    adviseNewKey,
	"MalformedPolicyDocumentException": advisePolicy,
	"MalformedPolicyDocument":          advisePolicy,
	"KMSInvalidMacException":           adviseMAC,
	"AccessDenied":                     adviseAccessKey,
	"KMSInvalidSignatureException": func(refusal) string {
		return "the signature is not the one of this message by this key and algorithm; --message-type must be that of the signing"
	},
}

// advice returns what to do about an error of the API that says too little by itself; nothing where the command line does
// not show it.
func advice(cmd *cobra.Command, err smithy.APIError) string {
	advise, ok := advisers[err.ErrorCode()]
	if !ok {
		return ""
	}
	return advise(refusal{flags: cmd.Flags(), verb: cmd.Name(), text: err.ErrorMessage()})
}

// advised returns the error with that advice, unless it has a hint of its own.
func advised(cmd *cobra.Command, err error, api smithy.APIError) error {
	if hintOf(err) != "" {
		return err
	}
	return &valueError{err, advice(cmd, api)}
}

var (
	bareKeyID    = regexp.MustCompile(`(?i)^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$`)
	bareAlias    = regexp.MustCompile(`^[A-Za-z0-9/_-]+$`)
	aliasPrefix  = "alias/"
	keyIDFlags   = []string{"key-id", "target-key-id"}
	policyFlags  = []string{"policy", "policy-document", "assume-role-policy-document"}
	takesAliases = func(f *pflag.Flag) bool { return strings.Contains(f.Usage, "alias ARN") }
)

// adviseKeyID is for what may be an alias: without its prefix, or where none is taken.
func adviseKeyID(r refusal) string {
	for _, flag := range keyIDFlags {
		for _, value := range r.given(flag) {
			isAlias := strings.HasPrefix(value, aliasPrefix)
			if bareKeyID.MatchString(value) || !isAlias && !bareAlias.MatchString(value) {
				continue
			}
			name := aliasPrefix + strings.TrimPrefix(value, aliasPrefix)
			switch {
			case !takesAliases(r.flags.Lookup(flag)):
				return fmt.Sprintf("--%s takes a key id or key ARN here; to see that of an alias:\n"+
					"pkcs11kms describe-key --key-id %s --query KeyMetadata.KeyId --output text", flag, shellQuote(name))
			case !isAlias:
				return fmt.Sprintf("an alias is named with its prefix: --%s %s", flag, shellQuote(name))
			}
		}
	}
	return ""
}

// adviseValues is for refusals of the form of the input.
func adviseValues(r refusal) string {
	for _, value := range r.given("alias-name") {
		if !strings.HasPrefix(value, aliasPrefix) {
			return "write --alias-name " + shellQuote(aliasPrefix+value)
		}
	}
	for _, value := range r.given("target-key-id") {
		if strings.HasPrefix(value, aliasPrefix) {
			return adviseKeyID(r)
		}
	}
	return adviseNewKey(r)
}

// adviseAccessKey is for an access key that there is not, which AWS IAM answers as if somebody else's.
func adviseAccessKey(r refusal) string {
	if len(r.given("access-key-id")) == 0 {
		return ""
	}
	return "no access key has this id, or it was deleted; those of a user or role: pkcs11kms iam list-access-keys --user-name NAME"
}

// adviseNewKey is for create-key without the two flags that a key here cannot do without, or with a spec that is not made.
func adviseNewKey(r refusal) string {
	if r.verb != "create-key" {
		return ""
	}
	specs := append(r.given("key-spec"), r.given("customer-master-key-spec")...)
	made := namesOf(pkcs11kms.KeySpecs())
	switch {
	case len(specs) == 0 || len(r.given("key-usage")) == 0:
		return "name both: --key-spec HMAC_256 --key-usage GENERATE_VERIFY_MAC, or for signatures " +
			"--key-spec ECC_NIST_P256 --key-usage SIGN_VERIFY"
	case !slices.Contains(made, specs[0]) && strings.Contains(r.text, "enum value set"):
		return "of these, keys can be made here of " + strings.Join(made, ", ")
	}
	return ""
}

// advisePolicy is for a file that was named without file://, and for JSON that is no policy.
func advisePolicy(r refusal) string {
	for _, flag := range policyFlags {
		for _, value := range r.given(flag) {
			_, isFile := strings.CutPrefix(value, textFile)
			switch {
			case !isFile && !strings.HasPrefix(strings.TrimSpace(value), "{"):
				if _, err := os.Stat(value); err != nil {
					value = "FILE"
				}
				return fmt.Sprintf("a policy is JSON; to give the one in a file: --%s %s", flag, shellQuote(textFile+value))
			case flag == "policy":
				return "to see what is wrong and where, with the policy in a file: pkcs11kms policy lint FILE"
			case flag == "policy-document":
				return "to see what is wrong and where, with the policy in a file: pkcs11kms policy lint --identity FILE"
			}
		}
	}
	return ""
}

var hexadecimalMAC = regexp.MustCompile(`^[0-9A-Fa-f]{56,128}$`)

// adviseMAC is for a MAC that does not fit, of which the API says nothing more.
func adviseMAC(r refusal) string {
	for _, value := range r.given("mac") {
		if hexadecimalMAC.MatchString(value) {
			return "--mac looks hexadecimal, as mac prints MACs, and was read as base64: echo HEX | xxd -r -p > FILE, and --mac fileb://FILE"
		}
	}
	return "the MAC is not the one of this message by this key and algorithm; both are read as base64: give files by " + blobFile + "PATH"
}
