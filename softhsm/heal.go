package softhsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// In every C_Login SoftHSM 2.6.1 empties the token's file token.object, gives up its lock on it, and then writes its 320
// bytes anew, in one call. A process that is killed in between leaves a file of 0 bytes: 4 of 400 processes did that were
// killed at random moments while they logged in. The token then has no label, no PINs and no key to its objects any more,
// so all of them are lost. What a token needs to come back is in its file since it was made, so a copy of that time is kept
// and put back. A login that was under way all the same goes on with the old file and loses nothing that counts.

// tokenFile is the file in a token's directory that holds its label, serial number, flags and PINs.
const tokenFile = "token.object"

// A file counts as emptied for good when it has been empty at every look for stillEmpty. A login takes microseconds from
// emptying to writing, and even one that is held up for longer does no harm.
const (
	stillEmpty = 500 * time.Millisecond
	lookPause  = 10 * time.Millisecond
)

// savedDir holds the copies, each under the name of its token's directory.
func (c *Config) savedDir() string { return filepath.Join(c.Dir, "tokens.saved") }

// saveToken keeps a copy of the file of a token that has just been made.
func (c *Config) saveToken(serial string) error {
	dir, err := c.tokenDir(serial)
	if err != nil {
		return err
	}
	text, err := readWritten(filepath.Join(dir, tokenFile))
	if err != nil {
		return fmt.Errorf("saving a copy of the token's file: %w", err)
	}
	if err := os.MkdirAll(c.savedDir(), 0o700); err != nil {
		return err
	}
	if err := writeAtomically(filepath.Join(c.savedDir(), filepath.Base(dir)), string(text)); err != nil {
		return err
	}
	return errors.Join(syncDir(c.savedDir()), syncDir(c.Dir))
}

// readWritten reads a token's file at a moment when no login has it empty.
func readWritten(path string) (text []byte, err error) {
	for attempt := range attempts {
		time.Sleep(time.Duration(attempt) * pause)
		if text, err = os.ReadFile(path); err != nil || len(text) > 0 {
			return text, err
		}
	}
	return nil, fmt.Errorf("reading %q: it is empty", path)
}

// heal restores every token whose file is empty and has a copy, and notes it in Restored.
func (c *Config) heal() error {
	emptied, err := c.emptied()
	if err != nil || len(emptied) == 0 {
		return err
	}
	unlock, err := lockDir(c.TokenDir) // so that of several healers one heals and the others find it done
	if err != nil {
		return err
	}
	defer unlock()
	for _, name := range emptied {
		restored, err := c.restore(name)
		if err != nil {
			return fmt.Errorf("restoring token %q: %w", name, err)
		}
		if restored {
			c.Restored = append(c.Restored, serialOf(name))
		}
	}
	return nil
}

// emptied returns the directories of the tokens whose file is empty, for a moment or for good.
func (c *Config) emptied() (names []string, err error) {
	entries, err := os.ReadDir(c.TokenDir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if isEmpty(filepath.Join(c.TokenDir, e.Name(), tokenFile)) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func isEmpty(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == 0
}

// restore puts the copy of a token's file in place of the empty one, as a new file.
func (c *Config) restore(name string) (bool, error) {
	text, err := os.ReadFile(filepath.Join(c.savedDir(), name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // a token that this package did not make
	}
	if err != nil {
		return false, err
	}
	dir := filepath.Join(c.TokenDir, name)
	path := filepath.Join(dir, tokenFile)
	for begin := time.Now(); time.Since(begin) < stillEmpty; time.Sleep(lookPause) {
		if !isEmpty(path) {
			return false, nil
		}
	}
	if err := writeAtomically(path, string(text)); err != nil {
		return false, err
	}
	return true, syncDir(dir)
}

// serialOf returns the serial number of the token in a directory: SoftHSM names it by a UUID whose last 16 digits it is.
func serialOf(name string) string {
	digits := strings.ReplaceAll(name, "-", "")
	return digits[max(0, len(digits)-16):]
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
