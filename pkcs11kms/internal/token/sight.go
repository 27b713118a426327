package token

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/miekg/pkcs11"
)

// This file brings back the objects that SoftHSM has lost sight of, for tokens whose quirk says losesSight.
//
// When SoftHSM cannot read the file of an object or of the token, because the process has no descriptor left or the
// directory is away for a moment, it takes the object for destroyed, in this process and for good: the file is not looked at
// again before C_Initialize. Measured with SoftHSM 2.6.1: one MAC under EMFILE is enough for every key of the token to be
// missing from then on; with the directory away C_GenerateKey and C_GetTokenInfo answer CKR_GENERAL_ERROR, also after it has
// come back. Sessions, login and C_GenerateRandom go on as if nothing had happened.
//
// So a key that is missing is believed to be so only while the module shows as many objects as there are files. If it
// shows fewer, the module is finalized and initialised once, when nobody else in the process uses it and no call is inside.

// lookInterval is how long what was seen counts for calls that can come at any rate.
const lookInterval = time.Second

// lookPause is between two looks of which the first has found files without an object: another process may have been making
// or destroying one.
const lookPause = 20 * time.Millisecond

// sight is what is known of the objects' files. The holder of keeper.busy may use it.
type sight struct {
	looked time.Time // when the files were last looked at
	err    error     // what came of it: ErrGone with its cause; nil if every object is seen
	unseen int       // files that stay without an object after the module was initialised anew: damaged ones
}

// errOthersUse is the cause when objects are out of sight and must stay so.
var errOthersUse = errors.New("the module has lost sight of the token's objects, and cannot be initialised anew " +
	"while other parts of the process use it: restart the process")

// mayRegain reports whether an error may come of objects that were lost sight of.
func (t *Token) mayRegain(err error) bool {
	if err == nil || !t.quirk.losesSight {
		return false
	}
	if gone := t.gone.Load(); gone != nil {
		return gone.passing
	}
	return errors.Is(err, ErrKeyMissing) || looksLost(err)
}

// regain is called after an operation that was begun in the generation has failed. It returns nil if the operation may be
// repeated, since the objects are in sight again; cause if they were all the time; and otherwise ErrGone, which is not to
// be taken for a key that is missing.
func (t *Token) regain(ctx context.Context, generation uint64, o *operation, cause error) error {
	if err := t.takeKeeper(ctx); err != nil {
		return err
	}
	restored := make(chan error, 1)
	go func() { // ends by itself: its steps are bounded, but for a call that hangs in the module
		defer t.keeper.release()
		restored <- t.restore(generation, o.often, cause)
	}()
	var err error
	select {
	case err = <-restored:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w: %w", ErrGone, cause, ctx.Err())
	}
	if err == nil && o.once && !errors.Is(cause, ErrKeyMissing) {
		return cause // nobody knows how far it came
	}
	return err
}

// restore does the work of regain. The caller holds keeper.busy.
func (t *Token) restore(generation uint64, often bool, cause error) error {
	gone := t.gone.Load()
	switch {
	case t.closing.Err() != nil:
		return ErrClosed
	case gone == nil && t.generation.Load() != generation:
		return nil // another caller was faster
	case gone != nil && !gone.passing:
		return gone.err
	case (gone != nil || often) && time.Since(t.sight.looked) < lookInterval:
		if t.sight.err != nil {
			return t.sight.err
		}
		return cause
	}
	lost, err := true, error(nil)
	if gone == nil {
		lost, err = t.lostSight()
	}
	if err == nil && lost {
		err = t.restart()
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	t.sight.looked, t.sight.err = time.Now(), err
	if err == nil && !lost {
		return cause
	}
	return err
}

// lostSight compares what the module shows with the files. An error says that the files cannot be read now, so that
// initialising the module anew would be in vain.
func (t *Token) lostSight() (bool, error) {
	for second := false; ; second = true {
		files, err := t.objectFiles()
		if err != nil {
			return false, err
		}
		shown, err := t.shownObjects()
		if err == nil && files-shown <= t.sight.unseen {
			t.sight.unseen = max(0, files-shown)
			return false, nil
		}
		if second {
			return true, nil
		}
		if err := pause(t.closing, lookPause); err != nil {
			return false, err
		}
	}
}

// shownObjects counts the token's objects as the module shows them. The caller holds keeper.busy.
func (t *Token) shownObjects() (n int, err error) {
	if _, err := t.c.GetTokenInfo(t.slot); err != nil {
		return 0, wrapRV("C_GetTokenInfo", err)
	}
	err = t.keeper.session.run(&operation{run: func(s *session, _ []byte) error {
		objects, err := s.search([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}, maxObjects)
		n = len(objects)
		return err
	}}, nil)
	return n, err
}

// restart initialises the module anew and logs in again. If that fails, the token is lost until a later call succeeds with
// it. The caller holds keeper.busy.
func (t *Token) restart() error {
	ctx, cancel := context.WithTimeout(t.closing, t.timeout)
	defer cancel()
	if err := t.loaded.lock(ctx); err != nil {
		return err
	}
	defer t.loaded.unlock()
	quiet := t.pool.hold()
	defer t.pool.resume()
	if t.gone.Load() == nil {
		if t.loaded.hostOwned || t.loaded.refs != 1 || t.epoch.Load() != t.loaded.epoch.Load() {
			return errOthersUse
		}
		select {
		case <-quiet:
		case <-ctx.Done():
			return errors.New("the module has lost sight of the token's objects, and calls into it do not end")
		}
	}
	t.forgetSessions()
	passing := &loss{err: fmt.Errorf("%w: the module is being initialised anew", ErrGone), passing: true}
	t.gone.Store(passing)
	t.generation.Add(1)
	if err := t.reconnect(ctx); err != nil {
		t.log.Error("the module cannot be initialised anew to find the token's objects again", "error", err)
		t.gone.Store(&loss{err: fmt.Errorf("%w: %w", ErrGone, err), passing: true})
		return err
	}
	t.gone.Store(nil)
	t.sight.unseen = 0
	if files, err := t.objectFiles(); err == nil {
		if shown, err := t.shownObjects(); err == nil {
			t.sight.unseen = max(0, files-shown)
		}
	}
	t.log.Warn("the module had lost sight of the token's objects and was initialised anew", "files_without_object", t.sight.unseen)
	return nil
}

// forgetSessions drops the open sessions, none of which is in use: C_Finalize closes them.
func (t *Token) forgetSessions() {
	t.keeper.session.open = false
	for _, s := range t.pool.dropFree() {
		s.open = false
		s.end(false)
	}
}

// reconnect initialises the module and opens the token again. The caller holds the module's lock.
func (t *Token) reconnect(ctx context.Context) error {
	if t.epoch.Load() == t.loaded.epoch.Load() {
		if _, err := t.restartModule(); err != nil {
			return err
		}
	} else { // an earlier attempt has lost our reference
		if err := t.loaded.acquire(t.c, t.loaded.conf); err != nil {
			return err
		}
		t.epoch.Store(t.loaded.epoch.Load())
	}
	return t.connect(ctx)
}

// objectFiles counts the files of the token's objects. Where that is no measure, it is 0.
func (t *Token) objectFiles() (n int, err error) {
	dir, err := t.directory()
	if err != nil || dir == "" {
		return 0, err
	}
	info, err := os.Stat(filepath.Join(dir, tokenFile))
	if err != nil {
		return 0, err
	}
	if info.Size() == 0 {
		return 0, fmt.Errorf("%q is empty", filepath.Join(dir, tokenFile))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if e.Name() != tokenFile && strings.HasSuffix(e.Name(), ".object") {
			n++
		}
	}
	return n, nil
}

// tokenFile holds the label, serial number, flags and PINs of a SoftHSM token.
const tokenFile = "token.object"

// directory finds the token's directory: SoftHSM names it by a UUID whose last 16 digits are the serial number. It is ""
// if the configuration keeps objects otherwise than in files.
func (t *Token) directory() (string, error) {
	text, err := os.ReadFile(t.lockFile)
	if err != nil {
		return "", err
	}
	settings := map[string]string{}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		name, value, _ := strings.Cut(line, "=")
		settings[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	tokens := settings["directories.tokendir"]
	if tokens == "" || settings["objectstore.backend"] != "file" && settings["objectstore.backend"] != "" {
		return "", nil
	}
	entries, err := os.ReadDir(tokens)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if strings.HasSuffix(strings.ReplaceAll(e.Name(), "-", ""), t.info.Serial) {
			return filepath.Join(tokens, e.Name()), nil
		}
	}
	return "", fmt.Errorf("no directory of the token with the serial number %s in %q", t.info.Serial, tokens)
}
