package token_test

import (
	"bytes"
	"encoding/asn1"
	"slices"
	"sync"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// faulty stands in front of the real module: it counts the calls, and a hook can make one fail, hang, or be answered
// otherwise. Everything else is the real module's answer.
type faulty struct {
	token.Module

	mu     sync.Mutex // guards the rest
	counts map[string]int
	hooks  map[string]func() error
	flags  uint // added to those of CK_TOKEN_INFO
	clear  uint // taken away from them
	limit  uint // answered as CK_TOKEN_INFO.ulMaxSessionCount, if set
	// manufacturer and model are answered in CK_TOKEN_INFO, if set, so that another vendor's quirks apply.
	manufacturer, model string
	library             string        // answered as CK_INFO.manufacturerID, if set
	noSlots             bool          // as a network module while its server is down
	badSlots            map[uint]bool // C_GetTokenInfo answers CKR_TOKEN_NOT_RECOGNIZED
	shortTag            bool          // C_Sign, C_SignFinal and C_GenerateRandom leave out the last byte
	refuse              uint          // an attribute that C_GenerateKey answers with CKR_ATTRIBUTE_TYPE_INVALID
	refuseAll           map[uint]bool // more of them, also of the private half of a pair

	backwards   bool                             // C_FindObjects shows what it has found in the other order
	barePoint   bool                             // CKA_EC_POINT comes without its OCTET STRING
	values      map[uint]func([]byte) []byte     // change what C_GetAttributeValue tells of an attribute
	untold      uint                             // an attribute for which C_GetAttributeValue answers CKR_DEVICE_ERROR
	noMechanism map[uint]bool                    // that C_SignInit does not know
	noCurve     []byte                           // a CKA_EC_PARAMS that C_GenerateKeyPair answers with CKR_CURVE_NOT_SUPPORTED
	signs       func(params, data []byte) []byte // what C_Sign answers for CKM_EDDSA, if set
	params      []byte                           // of the last C_SignInit for CKM_EDDSA
	eddsa       bool                             // whether that was the last C_SignInit

	asked  []pkcs11.SessionHandle // the session of each C_GetSessionInfo
	began  []pkcs11.SessionHandle // the session of each C_SignInit
	signed []string               // the message of each C_Sign
	lent   []byte                 // the very bytes that the last C_Sign was given
	sought []byte                 // the CKA_ID of the last C_FindObjectsInit that has one

	mechanism uint                // of the last C_GenerateKey
	template  []*pkcs11.Attribute // of the last C_GenerateKey
	private   []*pkcs11.Attribute // of the private half of the last C_GenerateKeyPair
}

// newFaulty makes the token of a test go through a faulty.
func newFaulty(cfg *token.Config) *faulty {
	f := &faulty{counts: map[string]int{}, hooks: map[string]func() error{}}
	cfg.SetWrap(func(m token.Module) token.Module {
		f.Module = m
		return f
	})
	return f
}

// on sets the hook of a function; nil takes it away. An error that it returns is the answer instead of the call.
func (f *faulty) on(name string, hook func() error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hooks[name] = hook
}

// set changes the other fields.
func (f *faulty) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// fail makes the next n calls of a function return a value.
func (f *faulty) fail(name string, n int, rv uint) {
	var mu sync.Mutex
	f.on(name, func() error {
		mu.Lock()
		defer mu.Unlock()
		if n--; n >= 0 {
			return pkcs11.Error(rv)
		}
		return nil
	})
}

// hang makes calls of a function wait, and returns what tells that one waits and what lets them go on.
func (f *faulty) hang(name string) (reached <-chan struct{}, free func()) {
	arrived, gate := make(chan struct{}, 64), make(chan struct{})
	f.on(name, func() error {
		arrived <- struct{}{}
		<-gate
		return nil
	})
	return arrived, sync.OnceFunc(func() {
		f.on(name, nil)
		close(gate)
	})
}

func (f *faulty) count(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[name]
}

func (f *faulty) hit(name string) error {
	f.mu.Lock()
	f.counts[name]++
	hook := f.hooks[name]
	f.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook()
}

func (f *faulty) Initialize(o ...pkcs11.InitializeOption) error {
	if err := f.hit("C_Initialize"); err != nil {
		return err
	}
	return f.Module.Initialize(o...)
}

func (f *faulty) Finalize() error {
	if err := f.hit("C_Finalize"); err != nil {
		return err
	}
	return f.Module.Finalize()
}

func (f *faulty) GetInfo() (pkcs11.Info, error) {
	if err := f.hit("C_GetInfo"); err != nil {
		return pkcs11.Info{}, err
	}
	info, err := f.Module.GetInfo()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.library != "" {
		info.ManufacturerID = f.library
	}
	return info, err
}

func (f *faulty) GetSlotList(present bool) ([]uint, error) {
	if err := f.hit("C_GetSlotList"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noSlots {
		return nil, nil
	}
	return f.Module.GetSlotList(present)
}

func (f *faulty) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	if err := f.hit("C_GetTokenInfo"); err != nil {
		return pkcs11.TokenInfo{}, err
	}
	info, err := f.Module.GetTokenInfo(slot)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.badSlots[slot] {
		return pkcs11.TokenInfo{}, pkcs11.Error(pkcs11.CKR_TOKEN_NOT_RECOGNIZED)
	}
	info.Flags = info.Flags&^f.clear | f.flags
	if f.limit != 0 {
		info.MaxSessionCount = f.limit
	}
	if f.manufacturer != "" {
		info.ManufacturerID, info.Model = f.manufacturer, f.model
	}
	return info, err
}

func (f *faulty) OpenSession(slot, flags uint) (pkcs11.SessionHandle, error) {
	if err := f.hit("C_OpenSession"); err != nil {
		return 0, err
	}
	return f.Module.OpenSession(slot, flags)
}

func (f *faulty) CloseSession(s pkcs11.SessionHandle) error {
	if err := f.hit("C_CloseSession"); err != nil {
		return err
	}
	return f.Module.CloseSession(s)
}

func (f *faulty) GetSessionInfo(s pkcs11.SessionHandle) (pkcs11.SessionInfo, error) {
	f.set(func() { f.asked = append(f.asked, s) })
	if err := f.hit("C_GetSessionInfo"); err != nil {
		return pkcs11.SessionInfo{}, err
	}
	return f.Module.GetSessionInfo(s)
}

func (f *faulty) Login(s pkcs11.SessionHandle, user uint, pin string) error {
	if err := f.hit("C_Login"); err != nil {
		return err
	}
	return f.Module.Login(s, user, pin)
}

func (f *faulty) GenerateKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, a []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	if err := f.hit("C_GenerateKey"); err != nil {
		return 0, err
	}
	f.mu.Lock()
	f.mechanism, f.template = m[0].Mechanism, a
	refuse, refuseAll := f.refuse, f.refuseAll
	f.mu.Unlock()
	for _, attribute := range a {
		if refuse != 0 && attribute.Type == refuse || refuseAll[attribute.Type] {
			return 0, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
		}
	}
	return f.Module.GenerateKey(s, m, a)
}

func (f *faulty) GenerateKeyPair(s pkcs11.SessionHandle, m []*pkcs11.Mechanism,
	public, private []*pkcs11.Attribute) (pkcs11.ObjectHandle, pkcs11.ObjectHandle, error) {
	if err := f.hit("C_GenerateKeyPair"); err != nil {
		return 0, 0, err
	}
	f.mu.Lock()
	noCurve := f.noCurve
	f.private = private
	refuseAll := f.refuseAll
	f.mu.Unlock()
	for _, attribute := range private {
		if refuseAll[attribute.Type] {
			return 0, 0, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
		}
	}
	for _, attribute := range public {
		if noCurve != nil && attribute.Type == pkcs11.CKA_EC_PARAMS && bytes.Equal(attribute.Value, noCurve) {
			return 0, 0, pkcs11.Error(pkcs11.CKR_CURVE_NOT_SUPPORTED)
		}
	}
	return f.Module.GenerateKeyPair(s, m, public, private)
}

// GetAttributeValue takes the OCTET STRING off CKA_EC_POINT, if the test wants it bare.
func (f *faulty) GetAttributeValue(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	if err := f.hit("C_GetAttributeValue"); err != nil {
		return nil, err
	}
	values, err := f.Module.GetAttributeValue(s, o, a)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, asked := range a {
		if f.untold != 0 && asked.Type == f.untold {
			return nil, pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)
		}
	}
	for _, v := range values {
		var point []byte
		if f.barePoint && v.Type == pkcs11.CKA_EC_POINT {
			if _, err := asn1.Unmarshal(v.Value, &point); err != nil {
				return nil, err
			}
			v.Value = point
		}
		if change := f.values[v.Type]; change != nil {
			v.Value = change(v.Value)
		}
	}
	return values, err
}

func (f *faulty) CreateObject(s pkcs11.SessionHandle, a []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	if err := f.hit("C_CreateObject"); err != nil {
		return 0, err
	}
	return f.Module.CreateObject(s, a)
}

func (f *faulty) DestroyObject(s pkcs11.SessionHandle, o pkcs11.ObjectHandle) error {
	if err := f.hit("C_DestroyObject"); err != nil {
		return err
	}
	return f.Module.DestroyObject(s, o)
}

func (f *faulty) FindObjectsInit(s pkcs11.SessionHandle, a []*pkcs11.Attribute) error {
	if err := f.hit("C_FindObjectsInit"); err != nil {
		return err
	}
	for _, attribute := range a {
		if attribute.Type == pkcs11.CKA_ID {
			f.set(func() { f.sought = bytes.Clone(attribute.Value) })
		}
	}
	return f.Module.FindObjectsInit(s, a)
}

func (f *faulty) FindObjects(s pkcs11.SessionHandle, most int) ([]pkcs11.ObjectHandle, bool, error) {
	if err := f.hit("C_FindObjects"); err != nil {
		return nil, false, err
	}
	found, more, err := f.Module.FindObjects(s, most)
	f.set(func() {
		if f.backwards {
			slices.Reverse(found)
		}
	})
	return found, more, err
}

func (f *faulty) FindObjectsFinal(s pkcs11.SessionHandle) error {
	if err := f.hit("C_FindObjectsFinal"); err != nil {
		return err
	}
	return f.Module.FindObjectsFinal(s)
}

func (f *faulty) SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, k pkcs11.ObjectHandle) error {
	if err := f.hit("C_SignInit"); err != nil {
		return err
	}
	f.mu.Lock()
	unknown := f.noMechanism[m[0].Mechanism]
	f.eddsa, f.params = m[0].Mechanism == ckmEdDSA, m[0].Parameter
	f.began = append(f.began, s)
	f.mu.Unlock()
	if unknown {
		return pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID)
	}
	return f.Module.SignInit(s, m, k)
}

func (f *faulty) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	f.set(func() { f.signed, f.lent = append(f.signed, string(message)), message })
	err := f.hit("C_Sign")
	tag, realErr := f.Module.Sign(s, message) // in any case: a C_Sign that fails ends the operation as well
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	if f.eddsa && f.signs != nil {
		tag = f.signs(f.params, message)
	}
	f.mu.Unlock()
	return f.cut(tag), realErr
}

func (f *faulty) SignUpdate(s pkcs11.SessionHandle, part []byte) error {
	if err := f.hit("C_SignUpdate"); err != nil {
		return err
	}
	return f.Module.SignUpdate(s, part)
}

func (f *faulty) SignFinal(s pkcs11.SessionHandle) ([]byte, error) {
	err := f.hit("C_SignFinal")
	tag, realErr := f.Module.SignFinal(s)
	if err != nil {
		return nil, err
	}
	return f.cut(tag), realErr
}

func (f *faulty) cut(tag []byte) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shortTag && len(tag) > 0 {
		return tag[:len(tag)-1]
	}
	return tag
}

func (f *faulty) GenerateRandom(s pkcs11.SessionHandle, n int) ([]byte, error) {
	if err := f.hit("C_GenerateRandom"); err != nil {
		return nil, err
	}
	random, err := f.Module.GenerateRandom(s, n)
	return f.cut(random), err
}
