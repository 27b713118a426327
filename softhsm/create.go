package softhsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/miekg/pkcs11"
)

// PIN lengths that SoftHSM takes, in bytes.
const (
	minPIN = 4
	maxPIN = 255
)

// maxLabel is the size of CK_TOKEN_INFO's label.
const maxLabel = 32

// CreateToken makes a new token with this label, a security officer's PIN and a user PIN, both of 4 to 255 bytes, and
// makes the configuration the one of the process as [Config.Use] does. A label that is taken is refused with
// [ErrTokenExists]. A token that cannot be finished is removed again.
//
// A module that was not initialised is finalized again, so that whoever comes next may initialise it. One that was stays
// as it is and shows the new token at once.
func (c *Config) CreateToken(label, soPIN, pin string) (Token, error) {
	if err := checkToken(label, soPIN, pin); err != nil {
		return Token{}, fmt.Errorf("creating token %q: %w", label, err)
	}
	provisioning.Lock()
	defer provisioning.Unlock()
	t, err := c.create(label, soPIN, pin)
	if err != nil {
		return Token{}, fmt.Errorf("creating token %q: %w", label, err)
	}
	return t, nil
}

func checkToken(label, soPIN, pin string) error {
	switch {
	case label == "" || len(label) > maxLabel:
		return &hinted{fmt.Errorf("label has %d bytes", len(label)), "choose a label of 1 to 32 bytes"}
	case !utf8.ValidString(label) || strings.ContainsFunc(label, unicode.IsControl) || strings.HasSuffix(label, " "):
		return &hinted{
			errors.New("label is not UTF-8, has control characters, or ends with a blank"),
			"choose a label of printable characters; PKCS#11 pads labels with blanks, so that one at the end is lost",
		}
	}
	for _, p := range []struct{ whose, pin string }{{"security officer's", soPIN}, {"user's", pin}} {
		if len(p.pin) < minPIN || len(p.pin) > maxPIN {
			return &hinted{fmt.Errorf("%s PIN has %d bytes", p.whose, len(p.pin)), "choose a PIN of 4 to 255 bytes"}
		}
	}
	return nil
}

// create does CreateToken's work under provisioning and under the lock that other processes respect.
func (c *Config) create(label, soPIN, pin string) (t Token, err error) {
	m, err := c.load()
	if err != nil {
		return Token{}, err
	}
	if err := c.use(); err != nil {
		return Token{}, err
	}
	unlock, err := lockDir(c.TokenDir)
	if err != nil {
		return Token{}, err
	}
	defer unlock()
	slots, finalize, err := c.open(m)
	if err != nil {
		return Token{}, err
	}
	defer func() {
		err = errors.Join(err, finalize())
		if err != nil {
			err = errors.Join(err, c.removeToken(t.Serial))
		}
	}()
	free, err := c.freeSlot(slots, label)
	if err != nil {
		return t, err
	}
	made, err := m.initToken(free, label, soPIN)
	if err != nil {
		return t, err
	}
	t = Token{Module: m.path, Label: label, Serial: made.info.SerialNumber, ConfigFile: c.File}
	if err := c.checkMember(t.Serial); err != nil {
		return t, err
	}
	if err := m.initPIN(made.id, soPIN, pin); err != nil {
		return t, err
	}
	return t, c.saveToken(t.Serial)
}

// checkMember makes sure that a token that the module shows is in this configuration. It is not when somebody else had
// initialised the module before SOFTHSM2_CONF was changed behind it.
func (c *Config) checkMember(serial string) error {
	dir, err := c.tokenDir(serial)
	if err != nil {
		return err
	}
	if dir == "" {
		return otherConfiguration("", c.File)
	}
	return nil
}

// freeSlot returns the slot of the uninitialised token that SoftHSM always shows, after making sure that label is not
// taken and that the module works in this configuration.
func (c *Config) freeSlot(slots []slot, label string) (uint, error) {
	free, found := uint(0), false
	for _, s := range slots {
		if !s.tokenInitialized() {
			free, found = s.id, true
			continue
		}
		if err := c.checkMember(s.info.SerialNumber); err != nil {
			return 0, err
		}
		if s.info.Label == label {
			return 0, &hinted{fmt.Errorf("%w in %q", ErrTokenExists, c.TokenDir),
				"choose another label, or go on with the token that is there"}
		}
	}
	if !found {
		return 0, errors.New("finding a free slot: SoftHSM shows none")
	}
	return free, nil
}

// initToken initialises the token in a free slot and finds it again by its label, as SoftHSM may give it another slot.
func (m *module) initToken(free uint, label, soPIN string) (slot, error) {
	if err := m.ctx.InitToken(free, soPIN, label); err != nil {
		return slot{}, call("C_InitToken", err)
	}
	slots, err := m.slots()
	if err != nil {
		return slot{}, err
	}
	for _, s := range slots {
		if s.tokenInitialized() && s.info.Label == label {
			return s, nil
		}
	}
	return slot{}, errors.New("finding the token after C_InitToken: SoftHSM does not show it")
}

// initPIN sets the user PIN as the security officer. C_CloseSession of the token's only session logs out as well, so
// that no other part of the process finds the officer logged in.
func (m *module) initPIN(id uint, soPIN, pin string) (err error) {
	session, err := m.ctx.OpenSession(id, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return call("C_OpenSession", err)
	}
	defer func() { err = errors.Join(err, call("C_CloseSession", m.ctx.CloseSession(session))) }()
	if err := m.ctx.Login(session, pkcs11.CKU_SO, soPIN); err != nil {
		return call("C_Login", err)
	}
	defer func() { err = errors.Join(err, call("C_Logout", m.ctx.Logout(session))) }()
	return call("C_InitPIN", m.ctx.InitPIN(session, pin))
}

// tokenDir returns the directory of a token, or "" when there is none.
func (c *Config) tokenDir(serial string) (string, error) {
	entries, err := os.ReadDir(c.TokenDir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if serial != "" && serialOf(e.Name()) == serial {
			return filepath.Join(c.TokenDir, e.Name()), nil
		}
	}
	return "", nil
}

func (c *Config) removeToken(serial string) error {
	dir, err := c.tokenDir(serial)
	if err != nil || dir == "" {
		return err
	}
	return errors.Join(os.RemoveAll(dir), os.RemoveAll(filepath.Join(c.savedDir(), filepath.Base(dir))))
}
