package token

import (
	"fmt"
	"strings"
)

// Reason says why a token could not be opened.
type Reason int

// The reasons of an *OpenError.
const (
	BadURI           Reason = iota + 1 // the URI is malformed, or has an attribute that is refused
	ModuleMissing                      // there is no module file
	ModuleUnusable                     // the file cannot be loaded, is no PKCS#11 module, or C_Initialize refused
	ConfigConflict                     // the process has initialised SoftHSM with another configuration
	TokenMissing                       // no token matches the URI
	TokenAmbiguous                     // more than one token matches
	SerialMismatch                     // the token has another serial than Config.Serial, or no name of Config.Known
	NotInitialized                     // the token, or its user PIN, was never initialised
	PINSource                          // the PIN file is missing, unsafe or malformed, or the callback failed
	PINRefused                         // the token refused the PIN; it was tried once
	PINLocked                          // the token's user PIN is locked; no attempt was made
	PINAttemptUnsafe                   // few attempts are left, or this PIN was refused before; no attempt was made
)

var reasonNames = [...]string{
	BadURI: "bad URI", ModuleMissing: "module missing", ModuleUnusable: "module unusable", ConfigConflict: "configuration conflict",
	TokenMissing: "token missing", TokenAmbiguous: "token ambiguous", SerialMismatch: "serial mismatch",
	NotInitialized: "not initialized", PINSource: "PIN source", PINRefused: "PIN refused", PINLocked: "PIN locked",
	PINAttemptUnsafe: "PIN attempt unsafe",
}

// String returns the reason in words.
func (r Reason) String() string {
	if r < BadURI || int(r) >= len(reasonNames) {
		return fmt.Sprintf("Reason(%d)", int(r))
	}
	return reasonNames[r]
}

// OpenError says why a token could not be opened, and what a person can do about it. It never holds the PIN.
type OpenError struct {
	Reason Reason
	Err    error // the cause below, such as an *Error or an *fs.PathError; may be nil
	text   string
	hint   string
}

// Error says what is wrong.
func (e *OpenError) Error() string {
	if e.Err == nil {
		return e.text
	}
	return e.text + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *OpenError) Unwrap() error { return e.Err }

// Is tells what ErrAnotherToken says of names that do not fit.
func (e *OpenError) Is(target error) bool {
	return target == ErrAnotherToken && e.Reason == SerialMismatch
}

// Hint returns one or more lines that say what to do.
func (e *OpenError) Hint() string { return e.hint }

// refuse makes an OpenError; the hint is joined from its lines.
func refuse(r Reason, cause error, text string, hint ...string) *OpenError {
	return &OpenError{Reason: r, Err: cause, text: text, hint: strings.Join(hint, "\n")}
}
