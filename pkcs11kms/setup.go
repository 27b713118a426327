package pkcs11kms

import "fmt"

// SetupError says what is wrong with the environment that a Bridge needs, and what to do about it.
type SetupError struct {
	Problem string
	Advice  string // one or more lines; often a command to run
	Err     error  // the cause; may be nil
}

// Error says what is wrong.
func (e *SetupError) Error() string {
	if e.Err == nil {
		return e.Problem
	}
	return fmt.Sprintf("%s: %v", e.Problem, e.Err)
}

// Unwrap returns the cause.
func (e *SetupError) Unwrap() error { return e.Err }

// Hint returns Advice.
func (e *SetupError) Hint() string { return e.Advice }

// RefusedError says why an administrative request was refused, and what to do about it. Nothing was changed.
type RefusedError struct {
	Problem string
	Advice  string // one or more lines; often a command to run
	Err     error  // the cause; may be nil
}

// Error says why.
func (e *RefusedError) Error() string {
	if e.Err == nil {
		return e.Problem
	}
	return fmt.Sprintf("%s: %v", e.Problem, e.Err)
}

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// Hint returns Advice.
func (e *RefusedError) Hint() string { return e.Advice }
