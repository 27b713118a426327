package token

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/pkcs11"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrBusy says that no session became free in time or, where changes of the token take turns, that others were changing
	// it all the while; the error wraps the context's if that ended. Trying again is right.
	ErrBusy = errors.New("the token did not become free in time")
	// ErrGone says that the connection to the device is lost; it wraps the cause.
	ErrGone = errors.New("token is gone")
	// ErrKeyMissing says that no object with the CKA_ID is in the token.
	ErrKeyMissing = errors.New("key is not in the token")
	// ErrKeyAmbiguous says that several objects carry the CKA_ID, so that none of them is used or destroyed.
	ErrKeyAmbiguous = errors.New("several objects in the token have the CKA_ID")
	// ErrKeyForeign says that the object with the CKA_ID has another CKA_LABEL than it should: it is somebody else's.
	ErrKeyForeign = errors.New("the object in the token with the CKA_ID is not the one that was meant")
	// ErrKeyExists says that a token which takes only short CKA_IDs has the CKA_ID already. Take another.
	ErrKeyExists = errors.New("the token has the CKA_ID already")
	// ErrMalformed says that the token's answer is not what the function promises, such as a MAC of another length.
	ErrMalformed = errors.New("the token's answer is malformed")
	// ErrClosed is returned by every method of a Token or Stream after Close.
	ErrClosed = errors.New("token is closed")
	// ErrStreamRefused is returned by NewStream on a module that is known to crash or to fail in multi-part operations.
	ErrStreamRefused = errors.New("streamed MACs are refused: this module is known to crash or to fail in C_SignFinal")
)

// Error is the answer of a C_ function other than CKR_OK. Its text is like "C_SignInit: CKR_KEY_HANDLE_INVALID".
type Error struct {
	Func string // the C_ function
	RV   uint   // its return value, a CKR_ constant
}

// Error names the function and the return value.
func (e *Error) Error() string { return e.Func + ": " + rvName(e.RV) }

// rvName takes the name out of miekg's text "pkcs11: 0x60: CKR_KEY_HANDLE_INVALID", which is empty for unknown values.
func rvName(rv uint) string {
	text := pkcs11.Error(rv).Error()
	if i := strings.LastIndex(text, "CKR_"); i >= 0 {
		return text[i:]
	}
	return fmt.Sprintf("CKR 0x%X", rv)
}

// wrapRV turns what miekg returns into an *Error. Anything that is not a return value is kept as it is.
func wrapRV(fn string, err error) error {
	if err == nil {
		return nil
	}
	var rv pkcs11.Error
	if !errors.As(err, &rv) {
		return fmt.Errorf("%s: %w", fn, err)
	}
	return &Error{Func: fn, RV: uint(rv)}
}

// isRV reports whether err is an *Error with one of the return values.
func isRV(err error, rvs ...uint) bool {
	var e *Error
	return errors.As(err, &e) && e.is(rvs...)
}

func (e *Error) is(rvs ...uint) bool {
	for _, rv := range rvs {
		if e.RV == rv {
			return true
		}
	}
	return false
}

// StaleHandle reports whether the object handle was not valid (any more). Modules differ in which value they return.
func (e *Error) StaleHandle() bool {
	return e.is(pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID)
}

// DeviceLost reports whether the value is one that modules return when the connection to the device is lost. Some of the
// values can also be the trouble of one session, so the Token asks the device again before it believes them.
func (e *Error) DeviceLost() bool {
	return e.SessionLost() || e.is(pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT,
		pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_USER_NOT_LOGGED_IN,
		pkcs11.CKR_SLOT_ID_INVALID, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED)
}

// SessionLost reports whether the session is not usable any more, which may be the trouble of this one session alone.
func (e *Error) SessionLost() bool {
	return e.is(pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_OPERATION_ACTIVE)
}

// Unsupported reports whether the token does not do what was asked at all: the mechanism, the key's length or the function.
func (e *Error) Unsupported() bool {
	return e.is(pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_KEY_SIZE_RANGE,
		pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_MECHANISM_PARAM_INVALID)
}

// refusesKind reports whether the token does not do a kind of key: as Unsupported, or it takes neither the template nor the
// curve.
func (e *Error) refusesKind() bool {
	return e.Unsupported() || e.refusesTemplate() ||
		e.is(pkcs11.CKR_DOMAIN_PARAMS_INVALID, pkcs11.CKR_CURVE_NOT_SUPPORTED, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED)
}

// refusesTemplate reports whether the token does not take what it was told of an object that it should make.
func (e *Error) refusesTemplate() bool {
	return e.is(pkcs11.CKR_TEMPLATE_INCOMPLETE, pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID,
		pkcs11.CKR_ATTRIBUTE_VALUE_INVALID)
}

// anyError reports whether one of the errors that err is made of fits.
func anyError(err error, fits func(*Error) bool) bool {
	switch e := err.(type) {
	case *Error:
		return fits(e)
	case interface{ Unwrap() error }:
		return anyError(e.Unwrap(), fits)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), func(part error) bool { return anyError(part, fits) })
	}
	return false
}

// passing reports whether the module may answer otherwise when it is asked again: it has answered, and has not refused what was asked.
func passing(err error) bool {
	if errors.Is(err, ErrMalformed) {
		return true
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || errors.Is(err, ErrBusy) || errors.Is(err, ErrGone) {
		return false
	}
	return !e.StaleHandle() && !e.refusesKind() && !e.is(pkcs11.CKR_DATA_INVALID, pkcs11.CKR_DATA_LEN_RANGE,
		pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_ATTRIBUTE_SENSITIVE, pkcs11.CKR_ACTION_PROHIBITED)
}

// leavesSessionClean reports whether the session can be used again. A refusal by an Init call or by a call on objects
// begins no operation; after anything else the state of the session is not known.
func (e *Error) leavesSessionClean() bool {
	switch e.Func {
	case "C_SignInit", "C_GenerateKey", "C_GenerateKeyPair", "C_CreateObject", "C_GetAttributeValue", "C_DestroyObject", "C_FindObjectsInit":
	default:
		return false
	}
	return e.StaleHandle() || e.refusesKind() || e.is(pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_ATTRIBUTE_SENSITIVE,
		pkcs11.CKR_ACTION_PROHIBITED, pkcs11.CKR_DEVICE_MEMORY)
}

// HungError says that a call into the module did not answer in time. The call is still running: it cannot be stopped.
// If the caller's context ended, the error wraps the context's error.
type HungError struct {
	Func  string // the C_ function that the call is about
	cause error  // the context's error; nil if Config.CallTimeout ended the wait
	all   int    // how many calls hang, if the call was not begun because they leave no session
	since time.Time
	done  chan struct{}
}

func newHungError(fn string) *HungError {
	return &HungError{Func: fn, since: time.Now(), done: make(chan struct{})}
}

// givenUpFor is how long a call must have gone on without its caller to count as one that hangs: callers give up for reasons of
// their own as well, and most calls come back soon after.
const givenUpFor = time.Second

// stays reports whether the call is one that hangs, not one whose caller was in a hurry.
func (e *HungError) stays() bool { return e.cause == nil || time.Since(e.since) > givenUpFor }

// mayReturn is the opposite.
func (e *HungError) mayReturn() bool { return !e.stays() }

// Error names the function.
func (e *HungError) Error() string {
	if e.all > 0 {
		return fmt.Sprintf("%d calls of the module have not come back, %s among them, so that no session is left", e.all, e.Func)
	}
	if e.cause != nil {
		return fmt.Sprintf("%s has not answered: %v", e.Func, e.cause)
	}
	return e.Func + " has not answered in time"
}

// Unwrap returns the error of the caller's context, if that was what ended the wait.
func (e *HungError) Unwrap() error { return e.cause }

// Timeout reports true, as for other errors of a deadline.
func (e *HungError) Timeout() bool { return true }

// running reports whether the call has not come back yet.
func (e *HungError) running() bool {
	select {
	case <-e.done:
		return false
	default:
		return true
	}
}

// Done is closed when the call has come back after all and its effects are undone: a key that it made is destroyed. It
// may stay open for as long as the device hangs.
func (e *HungError) Done() <-chan struct{} { return e.done }
