package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

var errToken = &pkcs11kms.SetupError{Problem: "token is gone", Advice: "plug it in\nand try again"}

// caused joins an API error with its cause, as the library does.
func caused(api, cause error) error { return errors.Join(api, cause) }

func TestReport(t *testing.T) {
	internal := &types.KMSInternalException{Message: aws.String("An internal error occurred.")}
	refused := &types.NotFoundException{Message: aws.String("Invalid keyId 'x'")}
	throttled := &smithy.GenericAPIError{Code: "ThrottlingException", Message: "Slow down.", Fault: smithy.FaultClient}
	hostile := &smithy.GenericAPIError{Code: "A\x1b[1m", Message: "one\ntwo\x1b]0;x\a ünï", Fault: smithy.FaultClient}
	made := change{"making it", "look"}
	for _, tc := range []struct {
		name string
		err  error
		code int
		want string
	}{
		{"done", nil, 0, ""},
		{"told already", exitError(1), 1, ""},
		{"usage", usagef("no %q", "x"), 2, "pkcs11kms: no \"x\"\nhint: see pkcs11kms verb --help\n"},
		{"usage with a hint", &usageError{errors.New("no"), "do this"}, 2, "pkcs11kms: no\nhint: do this\nhint: see pkcs11kms verb --help\n"},
		{"refused", &operationError{"DescribeKey", refused}, 1,
			"An error occurred (NotFoundException) when calling the DescribeKey operation: Invalid keyId 'x'\n"},
		{"refused without a message", &operationError{"VerifyMac", &types.KMSInvalidMacException{}}, 1,
			"An error occurred (KMSInvalidMacException) when calling the VerifyMac operation: \n" +
				"hint: the MAC is not the one of this message by this key and algorithm; both are read as base64: give files by fileb://PATH\n"},
		{"refused with a cause", &operationError{"GenerateMac", caused(throttled, errors.New("detail"))}, 1,
			"An error occurred (ThrottlingException) when calling the GenerateMac operation: Slow down.\n"},
		{"fault of the service", &operationError{"GenerateMac", caused(internal, fmt.Errorf("signing: %w", errToken))}, 3,
			"An error occurred (KMSInternalException) when calling the GenerateMac operation: An internal error occurred.\n" +
				"cause: signing: token is gone\nhint: plug it in\nhint: and try again\n"},
		{"fault of the service and an error on closing",
			errors.Join(&operationError{"GenerateMac", caused(internal, errToken)}, errors.New("closing")), 3,
			"An error occurred (KMSInternalException) when calling the GenerateMac operation: An internal error occurred.\n" +
				"cause: token is gone\ncause: closing\nhint: plug it in\nhint: and try again\n"},
		{"environment", fmt.Errorf("opening: %w", errToken), 3, "pkcs11kms: opening: token is gone\nhint: plug it in\nhint: and try again\n"},
		{"several lines", errors.New("one:\n  two"), 3, "pkcs11kms: one: two\n"},
		{"control characters", errors.New("a\x1b[2J\r\tb\x7f\u202e\xff ünï✓ \"q\" \\ c"), 3,
			"pkcs11kms: a\\x1b[2J\\r\\tb\\x7f\\u202e\\xff ünï✓ \"q\" \\ c\n"},
		{"refused with control characters", &operationError{"CreateKey", hostile}, 1,
			"An error occurred (A\\x1b[1m) when calling the CreateKey operation: one two\\x1b]0;x\\a ünï\n"},
		{"fault with control characters",
			&operationError{"GenerateMac", caused(internal, &environmentError{errors.New("a\nb\x1b"), "c\x1b\nd"})}, 3,
			"An error occurred (KMSInternalException) when calling the GenerateMac operation: An internal error occurred.\n" +
				"cause: a b\\x1b\nhint: c\\x1b\nhint: d\n"},
		{"change unshown", made.shown(&outputError{syscall.ENOSPC}), 3,
			"pkcs11kms: making it succeeded, showing the response failed: writing the output: no space left on device\nhint: look\n"},
		{"change unshown to a closed pipe", made.shown(&outputError{syscall.EPIPE}), 3,
			"pkcs11kms: making it succeeded, showing the response failed: writing the output: broken pipe\nhint: look\n"},
		{"change unshown and an error on closing", errors.Join(made.shown(queryError("x", errors.New("detail"))), errors.New("closing")), 3,
			"pkcs11kms: making it succeeded, showing the response failed: applying --query \"x\": " +
				"a function does not take what it is given closing\nhint: look\n"},
		{"change shown", made.shown(nil), 0, ""},
		{"no change", change{}.shown(&outputError{syscall.EPIPE}), 141, ""},
		{"closed pipe", &outputError{syscall.EPIPE}, 141, ""},
		{"full disk", &outputError{syscall.ENOSPC}, 3, "pkcs11kms: writing the output: no space left on device\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stderr bytes.Buffer
			a := &app{stderr: &stderr, started: true}
			assert.Equal(t, tc.code, a.report(t.Context(), verbOf(t), tc.err))
			assert.Equal(t, tc.want, stderr.String())
		})
	}
}

func verbOf(t *testing.T) *cobra.Command {
	t.Helper()
	root, verb := &cobra.Command{Use: "pkcs11kms"}, &cobra.Command{Use: "verb"}
	root.AddCommand(verb)
	return verb
}

func TestReportOfAnInterruptedRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr bytes.Buffer
	a := &app{stderr: &stderr, started: true}
	assert.Equal(t, 130, a.report(ctx, verbOf(t), &operationError{"GenerateMac", &smithy.CanceledError{Err: ctx.Err()}}))
	assert.Equal(t, "pkcs11kms: interrupted\n", stderr.String())
}

func TestInterruptDoesNotHideAChange(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr bytes.Buffer
	a := &app{stderr: &stderr, started: true}
	assert.Equal(t, 3, a.report(ctx, verbOf(t), change{"making it", "look"}.shown(&outputError{syscall.ENOSPC})))
	assert.Contains(t, stderr.String(), "making it succeeded")
}

func TestErrorBeforeTheVerbRanIsOneOfUsage(t *testing.T) {
	var stderr bytes.Buffer
	a := &app{stderr: &stderr}
	assert.Equal(t, 2, a.report(t.Context(), verbOf(t), errors.New("unknown flag: --x")))
}
