package softhsm

import (
	"errors"
	"fmt"
	"sync"

	"github.com/miekg/pkcs11"
)

// provisioning serialises everything in this package that touches the module's state, the environment or loaded: a
// PKCS#11 module has one state for the whole process, so one lock per Config would not do.
var provisioning sync.Mutex

// loaded holds the modules by path, guarded by provisioning. They are never unloaded: SoftHSM's and OpenSSL's exit
// handlers do not outlive a dlclose on every system.
var loaded = map[string]*module{}

// module is a loaded SoftHSM. Its methods are called with provisioning held.
type module struct {
	path string
	ctx  *pkcs11.Ctx
}

// load finds and loads the configuration's module.
func (c *Config) load() (*module, error) {
	path := c.Module
	if path == "" {
		var err error
		if path, err = Find(); err != nil {
			return nil, err
		}
	}
	if m := loaded[path]; m != nil {
		return m, nil
	}
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, &hinted{
			fmt.Errorf("loading module %q: missing, of another architecture, or no PKCS#11 module", path),
			"check the file (ldd shows missing libraries), or set " + EnvModule + " to the right libsofthsm2.so",
		}
	}
	m := &module{path: path, ctx: ctx}
	loaded[path] = m
	return m, nil
}

func (m *module) initialized() bool {
	_, err := m.ctx.GetInfo()
	return err == nil
}

// initialize makes the module usable. It is not owned when somebody else in the process had initialised it before.
func (m *module) initialize() (owned bool, err error) {
	err = m.ctx.Initialize()
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return false, nil
	}
	return err == nil, call("C_Initialize", err)
}

// finalize undoes initialize and leaves a module that is somebody else's alone.
func (m *module) finalize(owned bool) error {
	if !owned {
		return nil
	}
	return call("C_Finalize", m.ctx.Finalize())
}

// call names the function that failed.
func call(function string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", function, err)
}

// slot is a slot with its token, as the module shows it at one moment.
type slot struct {
	id   uint
	info pkcs11.TokenInfo
}

func (s slot) tokenInitialized() bool { return s.info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 }

func (m *module) slots() ([]slot, error) {
	ids, err := m.ctx.GetSlotList(true)
	if err != nil {
		return nil, call("C_GetSlotList", err)
	}
	var slots []slot
	for _, id := range ids {
		info, err := m.ctx.GetTokenInfo(id)
		if err != nil {
			continue // its directory was removed under the running module: no token any more
		}
		info.UTCTime = "" // so that two looks at one token are equal
		slots = append(slots, slot{id: id, info: info})
	}
	return slots, nil
}
