package token

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

const (
	openLimit          = time.Minute
	defaultMaxSessions = 32
	defaultCallTimeout = 5 * time.Second
)

// Config says which token to open and how to work with it. Only URI is required.
type Config struct {
	// URI names the token, see ParseURI.
	URI string
	// PIN gives the PIN of the token's user. It is called at each login, and its value is kept nowhere. Default: the file of
	// the URI's pin-source, which is not read if PIN is set.
	PIN func(context.Context) (string, error)
	// Serial is the serial that the token must have, beside what the URI says. Default: any.
	Serial string
	// Known are the names that the token had when it was last used. One that has neither the label nor the serial is not logged in
	// to, and of several that fit the URI those are candidates that have all the names, or else the serial. Default: not known.
	Known Names
	// Prove decides whether a token is the one that is meant: of several candidates, at Open and whenever the module was initialised
	// anew. Its error wraps ErrAnotherToken if it is not, and what a method of Prover has answered. Default: the names alone decide.
	Prove func(context.Context, Prover) error
	// Recall returns what was learnt of the token before, by this process or another. It is advice of what the token lacks, so that it need
	// not be tried. Default: nothing.
	Recall func(context.Context, Info) Learnt
	// SoftHSMConf is what SOFTHSM2_CONF is set to, for the whole process, before the module is initialised. Default: what the
	// environment says. Other modules do not look at it.
	SoftHSMConf string
	// MaxSessions bounds the sessions that are in use at once. The token's own limit bounds them too. Default: 32.
	MaxSessions int
	// NoCopies has keys used themselves, and never by session copies; see copy.go.
	NoCopies bool
	// CallTimeout bounds the wait for a free session, and each call whose context can end. Default: 5 seconds.
	CallTimeout time.Duration
	// TryLowPIN logs in although the token reports wrong attempts or this PIN was refused before: for a person who has made
	// sure of the PIN.
	TryLowPIN bool
	// Wait lets Open return a Token that cannot be reached yet, which answers with ErrGone until it can be. Then only what a person
	// must mend is an error of Open: the URI, the module file, the PIN, another token in the place of the one with the serial.
	Wait bool
	// Logger receives what an operator may want to know; never a PIN, message or MAC. Default: none.
	Logger *slog.Logger

	// wrap puts a module in front of the real one, for tests that inject faults and count calls.
	wrap func(module) module
}

// Token is a logged-in connection to one PKCS#11 token. It must be closed. All methods are safe for concurrent use.
type Token struct {
	log    *slog.Logger
	cfg    Config // as it was given: the module may have to be initialised anew
	uri    URI
	loaded *loadedModule
	c      module // the module as this Token calls it
	// functions is the module's CK_FUNCTION_LIST; nil where all calls go through c.
	functions unsafe.Pointer
	epoch     atomic.Uint64 // of loaded, when we connected
	slot      atomic.Uint64
	known     atomic.Pointer[facts] // what the token is and can do; nil until it was reached

	lockWarned sync.Once
	timeout    time.Duration

	public    atomic.Bool // the token needs no login, and its sessions are public ones
	noRecover atomic.Bool // the token refuses a template of a private key that names CKA_SIGN_RECOVER

	gaps        sync.Map // Hash, pubkey.Spec or signing -> keptGap: what was tried in vain
	proven      sync.Map // Hash, pubkey.Spec or signing -> true: what was made and used
	messageOnly sync.Map // pubkey.Algorithm -> true: signed only with the token's own hash
	unwraps     sync.Map // envelope.Algorithm -> unwrapping: how the token opens it
	envelopes   atomic.Pointer[envelopeTrial]

	pool    *pool
	streams semaphore // places for streams, a quarter of the pool
	keeper  keeper    // the session that keeps the login

	unclosed unclosed // sessions

	holders    holders // which key holds a handle
	copies     copies
	pace       pace
	index      index
	generation atomic.Uint64          // of the connection; handles and sessions of another generation are not valid
	outage     atomic.Pointer[outage] // while the device is lost
	connection atomic.Pointer[connection]
	hungCheck  atomic.Pointer[HungError] // the last check of the device that did not answer in time
	making     atomic.Int32              // how many keys are being made: that can take long
	sight      sight                     // guarded by keeper.busy

	back                  atomic.Pointer[time.Time] // when it came back last
	losses, reinitialized atomic.Uint64
	mistaken              atomic.Uint64 // attempts that found another token
	// What follows is used by the goroutine of an outage alone.
	backoff   time.Duration
	disturbed time.Time // when other tokens of the module were asked for a pause
	// loginErr is what the last C_Login has met, loginFailed when; nil if it was good. They are used by whoever connects.
	loginErr    error
	loginFailed time.Time
	asked       bool // the attempt is the wish of a person, who has made sure of the PIN

	closing    context.Context // ends when Close begins
	beginClose context.CancelFunc
	closeOnce  sync.Once
	closeErr   error
	goroutines sync.WaitGroup // of sessions
}

// Names are what a token calls itself, without the padding. None is unique.
type Names struct{ Label, Serial, Manufacturer, Model string }

// String returns them for people.
func (n Names) String() string {
	return fmt.Sprintf("%q, serial %q (%s %s)", n.Label, n.Serial, n.Manufacturer, n.Model)
}

// Info describes an opened token.
type Info struct {
	Label, Serial, Manufacturer, Model string
	FirmwareVersion                    string
	ModulePath                         string
	LibraryDescription                 string
	LibraryVersion                     string
	// HostInitialized says that the module was initialised by somebody else in this process. It is never finalized by us.
	HostInitialized bool
	// Flags are those of CK_TOKEN_INFO (CKF_...) at Open.
	Flags uint
}

// Open finds the token, logs in and probes what it can do. It returns an *OpenError if a person must do something, and
// a *HungError, which matches ctx's error, if ctx ends first; what was begun is then undone in the background. A device may take long to
// initialise, so it may take a minute; what it waits for is logged.
func Open(ctx context.Context, cfg Config) (*Token, error) {
	if cfg.Wait {
		return openWaiting(ctx, cfg)
	}
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type result struct {
		t   *Token
		err error
	}
	opened := make(chan result, 1)
	hung := newHungError("opening the token")
	go func() {
		t, err := open(ctx, cfg)
		opened <- result{t, err}
	}()
	select {
	case r := <-opened:
		return r.t, r.err
	case <-ctx.Done():
	}
	hung.cause = ctx.Err()
	go func() {
		defer close(hung.done)
		if r := <-opened; r.t != nil {
			_ = r.t.Close() // nobody is left to tell
		}
	}()
	return nil, hung
}

func open(ctx context.Context, cfg Config) (*Token, error) {
	t, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	loaded := t.loaded
	if err := loaded.lock(ctx); err != nil {
		return nil, err
	}
	defer loaded.unlock()
	step, done := t.tellSlow()
	defer done()
	step("C_Initialize")
	if err := loaded.acquire(t); err != nil {
		return nil, err
	}
	if err := t.connect(ctx, step); err != nil {
		t.keeper.session.close()
		if releaseErr := loaded.release(t); releaseErr != nil {
			t.log.Warn("releasing the PKCS#11 module", "error", releaseErr)
		}
		return nil, err
	}
	if loaded.hostOwned {
		t.log.Warn("the application had initialised the PKCS#11 module, so it is never finalized here: a lost device is brought back by new "+
			"sessions and a login; where those do not help, the application must initialise the module anew",
			"module", loaded.path)
	}
	return t, nil
}

// prepare makes the Token of a configuration, of whose module nothing is called yet.
func prepare(cfg Config) (*Token, error) {
	uri, err := ParseURI(cfg.URI)
	if err != nil {
		return nil, err
	}
	loaded, err := loadModule(uri.ModulePath)
	if err != nil {
		return nil, err
	}
	return newToken(cfg, uri, loaded), nil
}

func newToken(cfg Config, uri URI, loaded *loadedModule) *Token {
	t := &Token{log: cfg.Logger, cfg: cfg, uri: uri, loaded: loaded, timeout: cfg.CallTimeout}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	t.c = loaded.calls(loaded.ctx)
	if cfg.wrap != nil {
		t.c = loaded.calls(cfg.wrap(loaded.ctx))
	} else if t.c == module(loaded.ctx) {
		t.functions = functionList(loaded.ctx)
	}
	if t.timeout <= 0 {
		t.timeout = defaultCallTimeout
	}
	t.keeper = keeper{busy: newSemaphore(1), session: &session{token: t}}
	t.pool = newPool(cmp.Or(max(cfg.MaxSessions, 0), defaultMaxSessions), func() *session { return &session{token: t, place: t.pool} })
	t.copies.most, t.copies.idle = maxCopies, copyIdle
	t.connection.Store(newConnection())
	t.closing, t.beginClose = context.WithCancel(context.Background())
	return t
}

// Names are what the token calls itself.
func (i Info) Names() Names { return Names{i.Label, i.Serial, i.Manufacturer, i.Model} }

// Info describes the token as it was when it was first reached; the zero Info if it never was.
func (t *Token) Info() Info { return t.facts().info }

// name is what logs call the token.
func (t *Token) name() string { return cmp.Or(t.facts().info.Label, t.uri.String()) }

// Stats counts the sessions in use, and the copies of keys.
func (t *Token) Stats() Stats {
	stats := t.pool.stats()
	stats.Copies = t.copies.count()
	return stats
}

// errStillRunning is what Close returns when a C call does not come back.
var errStillRunning = errors.New("closing the token: calls into the module are still running, " +
	"so it stays initialised until they have come back")

// Close ends the streams, waits at most Config.CallTimeout for sessions in use, closes them, and finalizes the module after
// its last user. If a call still hangs then, Close says so, and the rest is done when the call has come back.
func (t *Token) Close() error {
	t.closeOnce.Do(func() { t.closeErr = t.close() })
	return t.closeErr
}

func (t *Token) close() error {
	t.beginClose()
	t.retire(t.pool.close(ErrClosed))
	timer := time.NewTimer(t.timeout)
	defer timer.Stop()
	quiet := make(chan error, 1)
	go func() {
		<-t.pool.idle
		t.keeper.busy.take()
		quiet <- t.disconnect()
	}()
	select {
	case err := <-quiet:
		return err
	case <-timer.C:
		return errStillRunning
	}
}

// disconnect is the last step of Close, when no call is running any more. The session that stays open is closed when all others are:
// opencryptoki frees memory twice when the last two sessions of a process are closed at once (measured with 3.8.1).
func (t *Token) disconnect() error {
	kept := t.keeper.session
	open := kept.open
	last := kept.takeOff()
	kept.end(false)
	t.goroutines.Wait()
	if o := t.outage.Load(); o != nil {
		t.closeAllLeft(o)
	}
	for _, s := range t.unclosed.takeAll() {
		t.closeLeft(s)
	}
	if open {
		t.closeLeft(last)
	}
	if err := t.loaded.lock(context.Background()); err != nil {
		return err
	}
	defer t.loaded.unlock()
	return t.loaded.release(t)
}

// retire closes sessions that nobody uses.
func (t *Token) retire(sessions []*session) {
	for _, s := range sessions {
		s.end(false)
	}
}
