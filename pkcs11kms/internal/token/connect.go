package token

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/miekg/pkcs11"
)

// restartPauses are the waits before a module is initialised again to look for a token that it did not show or could not
// log in to, and restartLimit bounds the whole, since a real device's module may take long to initialise.
var restartPauses = []time.Duration{5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 40 * time.Millisecond,
	80 * time.Millisecond, 160 * time.Millisecond, 320 * time.Millisecond, 320 * time.Millisecond}

const restartLimit = time.Second

// connect does the steps of Open that talk to the token, and names each to step. The caller holds the module's lock and a reference.
//
// SoftHSM rewrites the token's file at each login. A process that reads it in that moment sees no token, a token without a
// user PIN, or gets CKR_GENERAL_ERROR from C_Login before its PIN is looked at; it goes on to see that until its module is
// initialised again. So does a network module whose server was not up yet.
func (t *Token) connect(ctx context.Context, step func(string)) error {
	begin := time.Now()
	for attempt := 0; ; attempt++ {
		err := t.attach(ctx, step)
		if err == nil || !t.mayPass(err) || attempt == len(restartPauses) || time.Since(begin) > restartLimit {
			return err
		}
		t.keeper.session.close()
		if stopped := pause(ctx, restartPauses[attempt]); stopped != nil {
			return fmt.Errorf("looking for the token: %w", stopped)
		}
		restarted, restartErr := t.restartModule()
		if restartErr != nil {
			return restartErr
		}
		if !restarted && isReason(err, TokenMissing) {
			return err // others use the module, and it will not look for tokens again while they do
		}
		t.log.Debug("trying again to open the token", "after", err)
	}
}

// restartModule finalizes and initialises the module if nobody else uses it.
func (t *Token) restartModule() (restarted bool, err error) {
	if others, _ := t.loaded.others(t); t.loaded.hostOwned || len(others) > 0 {
		return false, nil
	}
	err = t.loaded.restart(t)
	t.epoch.Store(t.loaded.epoch.Load())
	return err == nil, err
}

// mayPass reports whether an error may be one of the moment. A refused PIN never is. CKR_GENERAL_ERROR is believed to be
// harmless of SoftHSM only: another token could have counted a PIN attempt.
func (t *Token) mayPass(err error) bool {
	if isReason(err, TokenMissing) || errors.Is(err, errUnseen) {
		return true
	}
	return t.loaded.isSoftHSM() && (isReason(err, NotInitialized) || isRV(err, pkcs11.CKR_GENERAL_ERROR))
}

func isReason(err error, r Reason) bool {
	var e *OpenError
	return errors.As(err, &e) && e.Reason == r
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attach finds the token and logs in on the session that stays open. Later than at the first time it wants the token that it has found
// then. step is told what is waited for.
func (t *Token) attach(ctx context.Context, step func(string)) error {
	step("C_GetSlotList")
	want := wanted{uri: t.uri, serial: t.cfg.Serial, known: t.cfg.Known, proves: t.cfg.Prove != nil}
	if met := t.facts(); met.complete {
		want.known = met.info.Names()
		if !want.proves {
			want.serial = met.info.Serial
		}
	}
	candidates, err := findTokens(t.c, t.loaded.path, want)
	if err != nil {
		return err
	}
	t.epoch.Store(t.loaded.epoch.Load())
	for _, f := range candidates {
		if err = t.attachTo(ctx, f, step); !errors.Is(err, ErrAnotherToken) {
			return err
		}
	}
	return err
}

// attachTo logs in to a token, has it prove that it is the one that is meant and, the first time, probes it.
func (t *Token) attachTo(ctx context.Context, f found, step func(string)) error {
	t.slot.Store(uint64(f.slot))
	if !t.facts().complete {
		t.meet(f)
	}
	step("C_Login")
	if err := t.login(ctx, f); err != nil {
		return err
	}
	step("C_GenerateRandom")
	trip := func(s *session, _ []byte) error { return t.roundTrip(s) }
	if err := t.keeper.session.run(&operation{name: "C_GenerateRandom", run: trip}, nil); err != nil {
		return err
	}
	step("the proof that it is the token that is meant")
	if err := t.prove(ctx, f); err != nil {
		return err
	}
	if !t.facts().complete {
		step("the probe of what the token can do")
		t.probe(ctx)
		t.selfTests()
	}
	return nil
}

// meet learns what the token says of itself, before the login.
func (t *Token) meet(f found) {
	t.learn(func(known *facts) {
		known.quirk = quirkOf(trim(t.loaded.info.ManufacturerID), trim(f.info.ManufacturerID), trim(f.info.Model))
		known.lockFile = known.quirk.toLock(t.loaded.conf)
		known.info = t.describe(f)
	})
	size := poolSize(t.cfg.MaxSessions, f.info)
	t.pool.resize(size)
	t.streams = newSemaphore(max(1, size/4))
}

func (t *Token) login(ctx context.Context, f found) error {
	return t.keeper.session.run(&operation{name: "C_Login", run: func(s *session, _ []byte) error {
		a := attempt{token: f, key: refusalKey{module: t.loaded.id, serial: f.serial()}, pins: pinSourceOf(t.uri, t.cfg.PIN),
			low: t.cfg.TryLowPIN || t.asked, refused: t.cfg.TryLowPIN, call: func(pin string) error { return t.callLogin(s, pin) }}
		if err := a.login(ctx, t.c, s.handle); err != nil {
			return err
		}
		return t.noteState(s, f)
	}}, nil)
}

// callLogin calls C_Login, unless it has failed a moment ago: then the answer is the one of then.
func (t *Token) callLogin(s *session, pin string) error {
	if t.loginErr == nil || t.asked || t.outage.Load() == nil || time.Since(t.loginFailed) >= loginPause {
		t.loginErr = wrapRV("C_Login", t.c.Login(s.handle, pkcs11.CKU_USER, pin))
		t.loginFailed = time.Now()
	}
	return t.loginErr
}

func (t *Token) describe(f found) Info {
	return Info{
		Label: f.label(), Serial: f.serial(), Manufacturer: trim(f.info.ManufacturerID), Model: trim(f.info.Model),
		FirmwareVersion:    fmt.Sprintf("%d.%d", f.info.FirmwareVersion.Major, f.info.FirmwareVersion.Minor),
		ModulePath:         t.loaded.path,
		LibraryDescription: trim(t.loaded.info.LibraryDescription),
		LibraryVersion:     fmt.Sprintf("%d.%d", t.loaded.info.LibraryVersion.Major, t.loaded.info.LibraryVersion.Minor),
		HostInitialized:    t.loaded.hostOwned,
		Flags:              f.info.Flags,
	}
}

// poolSize is the configured maximum or what the token has beside the session that stays open. Tokens that do not know
// their limit, or have none, say so with values that must not be taken for numbers.
func poolSize(configured int, info pkcs11.TokenInfo) int {
	size := configured
	if size <= 0 {
		size = defaultMaxSessions
	}
	for _, limit := range []uint{info.MaxSessionCount, info.MaxRwSessionCount} {
		if limit == pkcs11.CK_EFFECTIVELY_INFINITE || limit == pkcs11.CK_UNAVAILABLE_INFORMATION || limit > uint(size) {
			continue
		}
		size = max(1, int(limit)-1)
	}
	return size
}

// isSoftHSM reports whether the module is SoftHSM's own, with its files and its configuration in this process.
func (m *loadedModule) isSoftHSM() bool { return strings.HasPrefix(m.info.ManufacturerID, "SoftHSM") }
