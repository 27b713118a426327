package token

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/miekg/pkcs11"
)

// This file is about p11-kit's client module, before whose C_Initialize nothing but the beginning of its file's name tells what it is.
//
// It sends the calls of all threads over one connection, whose server works on one after the other. A thread that reads the head of another
// one's answer waits until that one has read the rest; if the connection ends in between, nobody wakes it, it stays inside the call for
// good, and C_Finalize is impossible (measured with 0.24.1, whose server was killed under load; rpc-transport.c of later releases reads in
// the same way). So it gets one call at a time: then there is no other one's answer.
//
// And a C_Initialize that fails after it was connected keeps its socket, which the next one replaces without closing it; C_Finalize closes
// the last one of a C_Initialize that has worked, and does nothing else (rpc-client.c, rpc_C_Initialize). Measured with 0.24.1: one socket
// for each attempt where something accepts connections and ends them, as a tunnel does whose other end is down. Unloading the module
// closes the last one of any. So it is loaded anew after each C_Initialize that fails.
const kitClient = "p11-kit-client"

// calls returns the module c of m, which is m.ctx or something in front of it, as it may be called.
func (m *loadedModule) calls(c module) module {
	if strings.HasPrefix(filepath.Base(m.path), kitClient) {
		return serialized{m, c}
	}
	return c
}

// serialized lets one call at a time into a module.
type serialized struct {
	loaded *loadedModule // whose alone is held during each call
	m      module
}

func (s serialized) alone() (leave func()) {
	s.loaded.alone.Lock()
	return s.loaded.alone.Unlock
}

func (s serialized) Initialize(opts ...pkcs11.InitializeOption) error {
	defer s.alone()()
	err := s.m.Initialize(opts...)
	if err != nil && !isRV(wrapRV("C_Initialize", err), pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		s.loaded.loadAnew()
	}
	return err
}

// loadAnew unloads the module and loads it again, unless its file is not what it was: what is loaded is better than nothing. The caller
// holds alone, and the module is not initialised, so nobody has a session. m.ctx stays the same for all who hold it.
func (m *loadedModule) loadAnew() {
	if id, err := identify(m.path); err != nil || id != m.id {
		return
	}
	m.ctx.Destroy()
	fresh := pkcs11.New(m.path)
	for fresh == nil { // there are no descriptors just now, or no memory. Without a module every call would crash
		time.Sleep(pauseLimit)
		fresh = pkcs11.New(m.path)
	}
	*m.ctx = *fresh
}

func (s serialized) Finalize() error {
	defer s.alone()()
	return s.m.Finalize()
}

func (s serialized) GetInfo() (pkcs11.Info, error) {
	defer s.alone()()
	return s.m.GetInfo()
}

func (s serialized) GetSlotList(tokenPresent bool) ([]uint, error) {
	defer s.alone()()
	return s.m.GetSlotList(tokenPresent)
}

func (s serialized) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	defer s.alone()()
	return s.m.GetTokenInfo(slot)
}

func (s serialized) OpenSession(slot, flags uint) (pkcs11.SessionHandle, error) {
	defer s.alone()()
	return s.m.OpenSession(slot, flags)
}

func (s serialized) CloseSession(h pkcs11.SessionHandle) error {
	defer s.alone()()
	return s.m.CloseSession(h)
}

func (s serialized) GetSessionInfo(h pkcs11.SessionHandle) (pkcs11.SessionInfo, error) {
	defer s.alone()()
	return s.m.GetSessionInfo(h)
}

func (s serialized) Login(h pkcs11.SessionHandle, user uint, pin string) error {
	defer s.alone()()
	return s.m.Login(h, user, pin)
}

func (s serialized) GenerateKey(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, template []*pkcs11.Attribute,
) (pkcs11.ObjectHandle, error) {
	defer s.alone()()
	return s.m.GenerateKey(h, m, template)
}

func (s serialized) GenerateKeyPair(h pkcs11.SessionHandle, m []*pkcs11.Mechanism,
	public, private []*pkcs11.Attribute) (pkcs11.ObjectHandle, pkcs11.ObjectHandle, error) {
	defer s.alone()()
	return s.m.GenerateKeyPair(h, m, public, private)
}

func (s serialized) CreateObject(h pkcs11.SessionHandle, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer s.alone()()
	return s.m.CreateObject(h, template)
}

func (s serialized) CopyObject(h pkcs11.SessionHandle, o pkcs11.ObjectHandle, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer s.alone()()
	return s.m.CopyObject(h, o, template)
}

func (s serialized) DestroyObject(h pkcs11.SessionHandle, o pkcs11.ObjectHandle) error {
	defer s.alone()()
	return s.m.DestroyObject(h, o)
}

func (s serialized) GetAttributeValue(h pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute,
) ([]*pkcs11.Attribute, error) {
	defer s.alone()()
	return s.m.GetAttributeValue(h, o, a)
}

func (s serialized) FindObjectsInit(h pkcs11.SessionHandle, template []*pkcs11.Attribute) error {
	defer s.alone()()
	return s.m.FindObjectsInit(h, template)
}

func (s serialized) FindObjects(h pkcs11.SessionHandle, most int) ([]pkcs11.ObjectHandle, bool, error) {
	defer s.alone()()
	return s.m.FindObjects(h, most)
}

func (s serialized) FindObjectsFinal(h pkcs11.SessionHandle) error {
	defer s.alone()()
	return s.m.FindObjectsFinal(h)
}

func (s serialized) SignInit(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle) error {
	defer s.alone()()
	return s.m.SignInit(h, m, key)
}

func (s serialized) Sign(h pkcs11.SessionHandle, message []byte) ([]byte, error) {
	defer s.alone()()
	return s.m.Sign(h, message)
}

func (s serialized) SignUpdate(h pkcs11.SessionHandle, part []byte) error {
	defer s.alone()()
	return s.m.SignUpdate(h, part)
}

func (s serialized) SignFinal(h pkcs11.SessionHandle) ([]byte, error) {
	defer s.alone()()
	return s.m.SignFinal(h)
}

func (s serialized) WrapKey(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, wrapping, key pkcs11.ObjectHandle) ([]byte, error) {
	defer s.alone()()
	return s.m.WrapKey(h, m, wrapping, key)
}

func (s serialized) UnwrapKey(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, unwrapping pkcs11.ObjectHandle, wrapped []byte,
	template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer s.alone()()
	return s.m.UnwrapKey(h, m, unwrapping, wrapped, template)
}

func (s serialized) DecryptInit(h pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle) error {
	defer s.alone()()
	return s.m.DecryptInit(h, m, key)
}

func (s serialized) Decrypt(h pkcs11.SessionHandle, cipher []byte) ([]byte, error) {
	defer s.alone()()
	return s.m.Decrypt(h, cipher)
}

func (s serialized) GenerateRandom(h pkcs11.SessionHandle, length int) ([]byte, error) {
	defer s.alone()()
	return s.m.GenerateRandom(h, length)
}
