package token

import (
	"context"
	"fmt"
	"sync"

	"github.com/miekg/pkcs11"
)

// refusals remembers which tokens have refused which state of a PIN source in this process, so that a program that opens
// a token in a loop does not lock it. It holds no PIN and nothing made from one.
var refusals = struct {
	mu     sync.Mutex // guards stamps
	stamps map[refusalKey]string
}{stamps: map[refusalKey]string{}}

type refusalKey struct {
	module fileID
	serial string
}

func (k refusalKey) refused(stamp string) bool {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	return refusals.stamps[k] == stamp
}

func (k refusalKey) remember(stamp string) {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	if stamp == "" {
		delete(refusals.stamps, k)
		return
	}
	refusals.stamps[k] = stamp
}

// TryPINCommand is what a person runs who is sure of the PIN; it sets Config.TryLowPIN.
const TryPINCommand = "pkcs11kms doctor --try-pin"

// ckrPINTooWeak is CKR_PIN_TOO_WEAK of PKCS#11 3.0.
const ckrPINTooWeak = 0x1B8

// attempt is one attempt to log in.
type attempt struct {
	token   found
	key     refusalKey
	pins    pinSource
	low     bool                   // also when the token reports wrong ones
	refused bool                   // also by a PIN that was refused
	call    func(pin string) error // of C_Login
}

// login logs the process in to the token of session s. C_Logout is called nowhere in this package: it would log every
// session of the process out.
func (a attempt) login(ctx context.Context, c module, s pkcs11.SessionHandle) error {
	f := a.token
	info, err := c.GetSessionInfo(s)
	if err != nil {
		return wrapRV("C_GetSessionInfo", err)
	}
	if info.State == pkcs11.CKS_RW_USER_FUNCTIONS {
		return nil // another user of the module in this process has logged in, and login is per process
	}
	if f.needsNoLogin(a.pins) {
		return nil
	}
	if err := mayAttempt(c, f, a.low); err != nil {
		return err
	}
	pin, stamp, err := a.pins.read(ctx)
	if err != nil {
		return err
	}
	if !a.refused && a.key.refused(stamp) {
		return refuse(PINAttemptUnsafe, nil, fmt.Sprintf("token %q has refused this PIN already, so it is not tried again", f.label()),
			"correct the PIN: each wrong attempt brings the token nearer to locking itself")
	}
	err = a.call(pin)
	switch {
	case err == nil, isRV(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN):
		a.key.remember("")
		return nil
	case isRV(err, pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE,
		pkcs11.CKR_ARGUMENTS_BAD, // which nothing but the PIN can be
		pkcs11.CKR_FUNCTION_REJECTED, ckrPINTooWeak):
		a.key.remember(stamp)
		return refuse(PINRefused, err, fmt.Sprintf("token %q has refused the PIN; it was tried once and is not tried again", f.label()),
			"correct the PIN in its file (or wherever it comes from), then run: "+TryPINCommand)
	case isRV(err, pkcs11.CKR_PIN_LOCKED):
		return pinLocked(f)
	case isRV(err, pkcs11.CKR_USER_PIN_NOT_INITIALIZED):
		return noUserPIN(f)
	case isRV(err, pkcs11.CKR_PIN_EXPIRED):
		return refuse(PINRefused, err, fmt.Sprintf("the user PIN of token %q has expired", f.label()), "set a new PIN with the vendor's tool")
	}
	return fmt.Errorf("logging in to token %q: %w", f.label(), err)
}

// needsNoLogin reports whether the token can be used by anybody, and there is nothing to log in with.
func (f found) needsNoLogin(pins pinSource) bool {
	none := pins.callback == nil && pins.file == ""
	return f.anybody() && (none || f.info.Flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0)
}

// anybody reports whether the token says that it needs no login.
func (f found) anybody() bool { return f.info.Flags&pkcs11.CKF_LOGIN_REQUIRED == 0 }

// noteState notes on which kind of session the token is used: one that needs no login may have no other than public ones.
func (t *Token) noteState(s *session, f found) error {
	info, err := t.c.GetSessionInfo(s.handle)
	if err != nil {
		return wrapRV("C_GetSessionInfo", err)
	}
	t.public.Store(f.anybody() && info.State == pkcs11.CKS_RW_PUBLIC_SESSION)
	return nil
}

// mayAttempt reads the token's flags afresh and refuses the attempt when they say that a wrong one could lock the token.
func mayAttempt(c module, f found, tryLow bool) error {
	info, err := c.GetTokenInfo(f.slot)
	if err != nil {
		return wrapRV("C_GetTokenInfo", err)
	}
	switch flags := info.Flags; {
	case flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return pinLocked(f)
	case flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
		return noUserPIN(f)
	case flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return refuse(PINAttemptUnsafe, nil,
			fmt.Sprintf("token %q allows one more PIN attempt before it locks itself, so none is made", f.label()),
			"make sure of the PIN, and log in with the vendor's tool once: that resets the counter")
	case flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0 && !tryLow:
		return refuse(PINAttemptUnsafe, nil,
			fmt.Sprintf("token %q reports wrong PIN attempts since the last good one, so none is made", f.label()),
			"make sure of the PIN, then have one attempt made, which resets the counter when it is good: "+TryPINCommand)
	}
	return nil
}

func pinLocked(f found) error {
	return refuse(PINLocked, nil, fmt.Sprintf("the user PIN of token %q is locked", f.label()),
		"the token's security officer must set a new user PIN with the vendor's tool")
}

func noUserPIN(f found) error {
	return refuse(NotInitialized, nil, fmt.Sprintf("token %q has no user PIN", f.label()),
		"the token's security officer must set the user PIN first (C_InitPIN, with the vendor's tool)")
}
