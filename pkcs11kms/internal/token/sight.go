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

// errOutOfSight is the cause of an outage that only a module initialised anew can end.
var errOutOfSight = errors.New("the module has lost sight of the token's objects")

// mayRegain reports whether an error may come of objects that were lost sight of.
func (t *Token) mayRegain(err error) bool {
	if err == nil || !t.facts().quirk.losesSight || errors.Is(err, ErrGone) {
		return false
	}
	return errors.Is(err, ErrKeyMissing) || looksLost(err)
}

// regain is called after an operation has failed. It returns nil if the operation may be
// repeated, since the objects will be in sight again when the outage that there is now has ended; cause if they were all the time; and
// otherwise ErrGone, which is not to be taken for a key that is missing.
func (t *Token) regain(ctx context.Context, o *operation, cause error) error {
	err := t.takeKeeper(ctx, t.timeout)
	if err == nil {
		looked := make(chan error, 1)
		go func() { // ends by itself: its steps are bounded, but for a call that hangs in the module
			defer t.keeper.release()
			looked <- t.look(o.generation, o.often, cause)
		}()
		select {
		case err = <-looked:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w: %w", ErrGone, cause, ctx.Err())
		}
	} else if errors.Is(err, ErrGone) {
		err = nil // another caller was faster
	}
	if err == nil && !o.repeatable() && !errors.Is(cause, ErrKeyMissing) {
		return cause // nobody knows how far it came
	}
	return err
}

// look does the work of regain. The caller holds keeper.busy.
func (t *Token) look(generation uint64, often bool, cause error) error {
	switch {
	case t.closing.Err() != nil:
		return ErrClosed
	case t.generation.Load() != generation:
		return nil // another caller was faster
	case often && time.Since(t.sight.looked) < lookInterval:
		if t.sight.err != nil {
			return t.sight.err
		}
		return cause
	}
	lost, err := t.lostSight()
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	t.sight.looked, t.sight.err = time.Now(), err
	switch {
	case err != nil:
		return err
	case lost:
		_ = t.lose(errOutOfSight, true)
		return nil
	}
	return cause
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
	if _, err := t.c.GetTokenInfo(uint(t.slot.Load())); err != nil {
		return 0, wrapRV("C_GetTokenInfo", err)
	}
	err = t.keeper.session.run(&operation{run: func(s *session, _ []byte) error {
		objects, err := s.search([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}, maxObjects)
		n = len(objects)
		return err
	}}, nil)
	return n, err
}

// noteUnseen counts the files that stay without an object now that the module was initialised: damaged ones. The caller holds
// keeper.busy.
func (t *Token) noteUnseen() {
	t.sight.unseen = 0
	if files, err := t.objectFiles(); err == nil {
		if shown, err := t.shownObjects(); err == nil {
			t.sight.unseen = max(0, files-shown)
		}
	}
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
	text, err := os.ReadFile(t.facts().lockFile)
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
		if strings.HasSuffix(strings.ReplaceAll(e.Name(), "-", ""), t.facts().info.Serial) {
			return filepath.Join(tokens, e.Name()), nil
		}
	}
	return "", fmt.Errorf("no directory of the token with the serial number %s in %q", t.facts().info.Serial, tokens)
}
