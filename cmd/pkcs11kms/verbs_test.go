package main

import (
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// ownVerbs are those that the aws CLI does not have.
var ownVerbs = []string{"init", "doctor", "crosscheck-child", "bench", "backup", "restore", "serve", "audit", "iam", "service-key",
	"version", "adopt-key", "mac", "jwt", "policy"}

// verbless are operations that are answered and have no verb: they could only be refused here.
var verbless = []string{"Encrypt", "Decrypt", "ReEncrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPair",
	"GenerateDataKeyPairWithoutPlaintext", "DeriveSharedSecret", "Encapsulate", "Decapsulate"}

// iamVerbless are operations of AWS IAM that are there for programs that look before they delete: what they list is always empty.
var iamVerbless = []string{"ListInstanceProfilesForRole", "GetLoginProfile", "ListMFADevices", "ListSigningCertificates",
	"ListSSHPublicKeys", "ListServiceSpecificCredentials"}

// ownIAMVerbs are those that "aws iam" does not have: no request makes an account, or gives the keys of an issuer.
var ownIAMVerbs = []string{"create-account", "list-accounts", "update-open-id-connect-provider-keys"}

// beforeWord and afterWord are where the aws CLI parts the words of a name.
var (
	beforeWord = regexp.MustCompile(`(.)([A-Z][a-z]+)`)
	afterWord  = regexp.MustCompile(`([a-z0-9])([A-Z])`)
)

// awsName is the aws CLI's name of an operation: CreateKey is create-key.
func awsName(operation string) string {
	return strings.ToLower(afterWord.ReplaceAllString(beforeWord.ReplaceAllString(operation, "$1-$2"), "$1-$2"))
}

// Every operation of the table that is answered has its verb, and every verb is of an operation or our own.
func TestTheTableOfOperationsHasVerbs(t *testing.T) {
	verbs, iamVerbs := map[string]bool{}, map[string]bool{}
	for _, cmd := range (&app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}).rootCommand().Commands() {
		verbs[cmd.Name()] = true
		if cmd.Name() == "iam" {
			for _, verb := range cmd.Commands() {
				iamVerbs[verb.Name()] = true
			}
		}
	}
	for _, name := range ownVerbs {
		delete(verbs, name)
	}
	for _, name := range ownIAMVerbs {
		delete(iamVerbs, name)
	}
	for _, op := range pkcs11kms.Operations() {
		switch op.Service {
		case "iam":
			assert.Equal(t, !slices.Contains(iamVerbless, op.Name), iamVerbs[awsName(op.Name)], "the verb of %s", op.Name)
			delete(iamVerbs, awsName(op.Name))
			continue
		case "pkcs11kms", "cloudtrail", "sts": // adopt-key, and what doctor does; audit search; who works on a state directory is its root
			continue
		}
		wanted := !op.Unsupported
		for _, name := range verbless {
			wanted = wanted && name != op.Name
		}
		assert.Equal(t, wanted, verbs[awsName(op.Name)], "the verb of %s", op.Name)
		delete(verbs, awsName(op.Name))
	}
	assert.Empty(t, verbs, "verbs of no operation")
	assert.Empty(t, iamVerbs, "verbs of no operation of AWS IAM")
}
