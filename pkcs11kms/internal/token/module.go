package token

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/pkcs11"
)

// module is exactly the C_ functions that this package calls, and nothing else of the module is used. *pkcs11.Ctx is one;
// tests put another in front of it to count calls and to make them fail or hang.
type module interface {
	Initialize(opts ...pkcs11.InitializeOption) error
	Finalize() error
	GetInfo() (pkcs11.Info, error)
	GetSlotList(tokenPresent bool) ([]uint, error)
	GetTokenInfo(slot uint) (pkcs11.TokenInfo, error)
	OpenSession(slot, flags uint) (pkcs11.SessionHandle, error)
	CloseSession(s pkcs11.SessionHandle) error
	GetSessionInfo(s pkcs11.SessionHandle) (pkcs11.SessionInfo, error)
	Login(s pkcs11.SessionHandle, user uint, pin string) error
	GenerateKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error)
	GenerateKeyPair(s pkcs11.SessionHandle, m []*pkcs11.Mechanism,
		public, private []*pkcs11.Attribute) (pkcs11.ObjectHandle, pkcs11.ObjectHandle, error)
	CreateObject(s pkcs11.SessionHandle, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error)
	CopyObject(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error)
	DestroyObject(s pkcs11.SessionHandle, o pkcs11.ObjectHandle) error
	GetAttributeValue(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute) ([]*pkcs11.Attribute, error)
	FindObjectsInit(s pkcs11.SessionHandle, template []*pkcs11.Attribute) error
	FindObjects(s pkcs11.SessionHandle, max int) ([]pkcs11.ObjectHandle, bool, error)
	FindObjectsFinal(s pkcs11.SessionHandle) error
	SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle) error
	Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error)
	SignUpdate(s pkcs11.SessionHandle, part []byte) error
	SignFinal(s pkcs11.SessionHandle) ([]byte, error)
	WrapKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, wrapping, key pkcs11.ObjectHandle) ([]byte, error)
	UnwrapKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, unwrapping pkcs11.ObjectHandle, wrapped []byte,
		template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error)
	DecryptInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle) error
	Decrypt(s pkcs11.SessionHandle, cipher []byte) ([]byte, error)
	GenerateRandom(s pkcs11.SessionHandle, length int) ([]byte, error)
}

var _ module = (*pkcs11.Ctx)(nil)

// fileID is what makes two paths one module: the dynamic linker counts by file, not by name.
type fileID struct{ dev, ino uint64 }

// loadedModule is one module file in this process. It stays loaded for good, since modules start threads and register
// exit handlers that do not survive an unload; C_Finalize is what ends its work.
type loadedModule struct {
	id   fileID
	path string
	ctx  *pkcs11.Ctx

	// epoch counts the calls of C_Initialize that we made. Handles start from one again after each, so a handle of an
	// earlier epoch could name another session or key.
	epoch atomic.Uint64

	// busy is a lock that a context can give up on: C_Initialize of a network module can hang.
	busy chan struct{}

	// changing is the turn to change objects, which the Tokens of the process take before they compete with other processes.
	changing semaphore

	// restarting is held alone while the module is finalized and initialised anew, and shared to close a session, which
	// happens on goroutines that nobody waits for.
	restarting sync.RWMutex

	claims claims // of sessions to their handles

	alone sync.Mutex // see calls
	turns *turns     // see direct.go; C alone looks at it

	// The holder of busy guards the rest.
	users       map[*Token]struct{}
	initialized bool        // by us or by the host, as far as we know
	hostOwned   bool        // somebody else had called C_Initialize, so C_Finalize is theirs
	unsure      bool        // our last C_Initialize has failed, which does not say that it has done nothing
	conf        string      // SOFTHSM2_CONF as it was at C_Initialize
	info        pkcs11.Info // of the library
}

// registry holds the modules of the process, since a module is one instance per process, however often it is opened.
var registry = struct {
	mu      sync.Mutex // guards modules; held while a file is loaded, never during a C_ call
	modules map[fileID]*loadedModule
}{modules: map[fileID]*loadedModule{}}

// loadModule returns the module of a file, loading it when the process has not.
func loadModule(path string) (*loadedModule, error) {
	id, err := identify(path)
	if err != nil {
		return nil, err
	}
	registry.mu.Lock()
	defer registry.mu.Unlock()
	if m, ok := registry.modules[id]; ok {
		return m, nil
	}
	why := whyUnloadable(path)
	if why != "" {
		return nil, refuse(ModuleUnusable, nil, fmt.Sprintf("loading PKCS#11 module %q: %s", path, why),
			"name the PKCS#11 module that came with the token in module-path")
	}
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, refuse(ModuleUnusable, nil, fmt.Sprintf("loading PKCS#11 module %q: the dynamic linker refuses it", path),
			fmt.Sprintf("see whether a library that it needs is missing: ldd %q", path))
	}
	m := &loadedModule{id: id, path: path, ctx: ctx, busy: make(chan struct{}, 1), changing: newSemaphore(1), turns: new(turns),
		users: map[*Token]struct{}{}}
	registry.modules[id] = m
	return m, nil
}

func identify(path string) (fileID, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fileID{}, refuse(ModuleMissing, nil, fmt.Sprintf("PKCS#11 module %q does not exist", path),
			"install the token's PKCS#11 module (SoftHSM: apt-get install softhsm2), or correct module-path in the URI")
	case err != nil:
		return fileID{}, refuse(ModuleMissing, err, fmt.Sprintf("looking at PKCS#11 module %q", path), "check the file's permissions")
	case !info.Mode().IsRegular():
		return fileID{}, refuse(ModuleUnusable, nil, fmt.Sprintf("PKCS#11 module %q is not a regular file", path),
			"name the module's .so file in module-path")
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, refuse(ModuleUnusable, nil, fmt.Sprintf("PKCS#11 module %q has no file identity", path), "use a local file")
	}
	return fileID{dev: uint64(st.Dev), ino: st.Ino}, nil
}

// lock takes the module for one user at a time, until unlock.
func (m *loadedModule) lock(ctx context.Context) error {
	select {
	case m.busy <- struct{}{}:
		return nil
	default:
	}
	select {
	case m.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for PKCS#11 module %q: %w", m.path, ctx.Err())
	}
}

func (m *loadedModule) unlock() { <-m.busy }

// acquire makes a Token a user of the module, which is initialised unless it is. The caller holds the lock.
func (m *loadedModule) acquire(t *Token) error {
	if m.initialized {
		// Another library in the process may have finalized the module behind our back.
		err := wrapRV("C_GetInfo", second(t.c.GetInfo()))
		m.initialized = !isRV(err, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)
	}
	conf := t.cfg.SoftHSMConf
	_, user := m.users[t]
	if user {
		conf = m.conf // whatever the environment says by now
	}
	if !m.initialized {
		if err := m.initialize(t.c, conf); err != nil {
			return err
		}
	}
	if user {
		return nil
	}
	if err := m.checkConf(conf); err != nil {
		return errors.Join(err, m.release(t))
	}
	m.users[t] = struct{}{}
	return nil
}

func second[T any](_ T, err error) error { return err }

// confVariable names SoftHSM's configuration file; SoftHSM reads it in C_Initialize and never again.
const confVariable = "SOFTHSM2_CONF"

func (m *loadedModule) initialize(c module, conf string) error {
	before := os.Getenv(confVariable)
	if conf != "" && conf != before {
		if err := os.Setenv(confVariable, conf); err != nil {
			return fmt.Errorf("setting %s: %w", confVariable, err)
		}
	}
	err := wrapRV("C_Initialize", c.Initialize())
	m.epoch.Add(1)
	already := isRV(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)
	if already && m.unsure { // by the call before, whose answer was another one
		already, err = false, nil
	}
	m.hostOwned, m.unsure = already, err != nil && !already
	m.conf = os.Getenv(confVariable)
	if m.hostOwned {
		// What the host's C_Initialize has read is most likely what the environment said before we came.
		m.conf = before
	} else if err != nil {
		return refuse(ModuleUnusable, err, fmt.Sprintf("initialising PKCS#11 module %q", m.path),
			"check that the module's configuration file exists and that this user may read it ("+confVariable+" for SoftHSM)")
	}
	m.initialized = true
	info, err := c.GetInfo()
	if err != nil {
		return errors.Join(refuse(ModuleUnusable, wrapRV("C_GetInfo", err), fmt.Sprintf("reading the version of PKCS#11 module %q", m.path),
			"check that this is the module that came with the token"), m.finalize(c))
	}
	m.info = info
	return nil
}

// checkConf refuses a second SoftHSM configuration: SoftHSM would go on serving the tokens of the first.
func (m *loadedModule) checkConf(conf string) error {
	if conf == "" {
		conf = os.Getenv(confVariable)
	}
	if conf == m.conf || !m.isSoftHSM() {
		return nil
	}
	a, errA := os.Stat(conf)
	b, errB := os.Stat(m.conf)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return nil
	}
	return refuse(ConfigConflict, nil,
		fmt.Sprintf("this process has initialised SoftHSM with configuration %q and cannot use %q as well", m.conf, conf),
		"SoftHSM reads its configuration once for each process: use one configuration for all tokens of the process,",
		"or close every token of the first before opening one of the second")
}

// release ends the use of the module by a Token, and finalizes it after the last. The caller holds the lock.
func (m *loadedModule) release(t *Token) error {
	delete(m.users, t)
	if len(m.users) > 0 {
		return nil
	}
	return m.finalize(t.c)
}

func (m *loadedModule) finalize(c module) error {
	if m.hostOwned || !m.initialized {
		return nil
	}
	err := wrapRV("C_Finalize", c.Finalize())
	if err != nil && !isRV(err, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED) { // another library in the process was faster
		return err
	}
	m.initialized = false
	m.claims.forget()
	return nil
}

// others returns the other users of the module, and whether one of them works.
func (m *loadedModule) others(t *Token) (others []*Token, working bool) {
	for other := range m.users {
		if other == t {
			continue
		}
		others = append(others, other)
		working = working || other.outage.Load() == nil
	}
	return others, working
}

// restart finalizes and initialises the module again. The caller holds the lock, and no other call of ours is inside.
func (m *loadedModule) restart(t *Token) error {
	for begin := time.Now(); !m.restarting.TryLock(); { // a session is being closed. Lock would keep others from closing theirs
		if time.Since(begin) > pauseLimit { // other tokens wait meanwhile
			return errors.New("C_CloseSession is inside the module, so it cannot be initialised anew")
		}
		if err := pause(t.closing, time.Millisecond); err != nil {
			return err
		}
	}
	defer m.restarting.Unlock()
	if err := m.finalize(t.c); err != nil {
		return err
	}
	return m.initialize(t.c, m.conf)
}
