package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/aws/smithy-go"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// The exit codes. Scripts rely on them.
const (
	exitDone        = 0
	exitRefused     = 1
	exitUsage       = 2
	exitEnvironment = 3
	exitHung        = 4
	exitInterrupted = 128 + int(syscall.SIGINT)
	exitPipeClosed  = 128 + int(syscall.SIGPIPE)
)

const exitCodesHelp = `Exit codes:
  0  done
  1  refused, or a MAC or token that does not verify
  2  wrong usage
  3  the environment: no token, wrong PIN, unusable state directory, no server at the endpoint,
     a response that cannot be shown
  4  serve --on-hang exit: calls into a token's PKCS#11 module did not come back
  130  ended by Ctrl-C or SIGTERM before it was done (serve, which ends so, has 0)
  141  nobody read the output to its end
`

// usageError is a command line that cannot be meant.
type usageError struct {
	err  error
	hint string // besides the pointer to --help; may be empty
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) Hint() string  { return e.hint }

func usagef(format string, args ...any) error { return &usageError{err: fmt.Errorf(format, args...)} }

// environmentError is an error of what the program stands on, with what can be done about it.
type environmentError struct {
	err  error
	hint string
}

func (e *environmentError) Error() string { return e.err.Error() }
func (e *environmentError) Unwrap() error { return e.err }
func (e *environmentError) Hint() string  { return e.hint }

// exitError is an outcome that was told already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// operationError is an error of an operation of the API.
type operationError struct {
	operation string
	err       error
}

func (e *operationError) Error() string { return e.operation + ": " + e.err.Error() }
func (e *operationError) Unwrap() error { return e.err }

// outputError is an error in writing the result.
type outputError struct{ err error }

func (e *outputError) Error() string { return "writing the output: " + e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }

// change is what an operation has changed, for the case that its response cannot be shown.
type change struct {
	what string // such as: creating key "1234abcd"
	hint string
}

// shown takes the error of showing the response. That the change was made must be told then: whoever repeats the command
// makes a second one, and nobody else knows of the first.
func (c change) shown(err error) error {
	if err == nil || c == (change{}) {
		return err
	}
	return &unshownError{c, err}
}

// unshownError is a change that was made and whose response could not be shown.
type unshownError struct {
	change change
	err    error
}

func (e *unshownError) Error() string {
	return e.change.what + " succeeded, showing the response failed: " + e.err.Error()
}
func (e *unshownError) Unwrap() error { return e.err }
func (e *unshownError) Hint() string  { return e.change.hint }

// report tells the outcome on standard error and returns the exit code. The first line says what is wrong, for an
// error of the API in the words of the aws CLI; lines that begin with "hint: " say what to do about it.
func (a *app) report(ctx context.Context, cmd *cobra.Command, err error) int {
	var usage *usageError
	var exit exitError
	var unshown *unshownError
	var api smithy.APIError
	var refused *pkcs11kms.RefusedError
	var hangs *hangError
	a.ran = cmd
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &exit):
		return int(exit)
	case errors.As(err, &unshown):
		// Neither a closed pipe nor an interrupt makes it less of a change.
	case errors.Is(err, syscall.EPIPE):
		return exitPipeClosed // whoever reads has seen enough
	case errors.As(err, &usage), !a.started:
		a.warn(err)
		a.printHint(a.stderr, err)
		fmt.Fprintf(a.stderr, "hint: see %s --help\n", cmd.CommandPath())
		return exitUsage
	case ctx.Err() != nil:
		fmt.Fprintln(a.stderr, "pkcs11kms: interrupted")
		return exitInterrupted
	case refusedToken(err):
		// Even when it was an error of the API that told so.
	case errors.As(err, &api):
		return a.reportAPI(cmd, err, api)
	}
	a.warn(err)
	a.printHint(a.stderr, err)
	switch {
	case errors.As(err, &refused), refusedToken(err):
		return exitRefused
	case errors.As(err, &hangs):
		return exitHung
	}
	return exitEnvironment
}

// warn prints an error on one line, which is how scripts and logs want it.
func (a *app) warn(err error) {
	fmt.Fprintf(a.stderr, "pkcs11kms: %s\n", oneLine(err.Error()))
}

// reportAPI prints an error of the API. The cause behind a fault of the service is for whoever operates the token, and
// here that is the same person.
func (a *app) reportAPI(cmd *cobra.Command, err error, api smithy.APIError) int {
	name := "unknown"
	var op *operationError
	if errors.As(err, &op) {
		name = op.operation
	}
	fmt.Fprintf(a.stderr, "An error occurred (%s) when calling the %s operation: %s\n",
		oneLine(api.ErrorCode()), name, oneLine(api.ErrorMessage()))
	if api.ErrorFault() != smithy.FaultServer {
		a.printHint(a.stderr, advised(cmd, err, api))
		return exitRefused
	}
	for _, cause := range causes(err) {
		fmt.Fprintf(a.stderr, "cause: %s\n", oneLine(cause.Error()))
	}
	a.printHint(a.stderr, err)
	return exitEnvironment
}

// causes returns what stands beside the API error in the tree of a joined error.
func causes(err error) (found []error) {
	for err != nil {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, branch := range joined.Unwrap() {
				var api smithy.APIError
				if errors.As(branch, &api) {
					found = append(found, causes(branch)...)
				} else {
					found = append(found, branch)
				}
			}
			return found
		}
		err = errors.Unwrap(err)
	}
	return nil
}

// hintOf returns what the error says about mending it, or nothing.
func hintOf(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return ""
}
