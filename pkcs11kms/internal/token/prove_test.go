package token_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// mark is a key by which a token is known again, and counts how often somebody asked.
type mark struct {
	id  []byte
	mac []byte

	mu    sync.Mutex // guards asked
	asked []token.Names
}

// newMark puts one into a token.
func newMark(t *testing.T, cfg token.Config) *mark {
	t.Helper()
	tok, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, tok.Close()) }() // later nobody else uses the module
	m := &mark{id: randomBytes(t, 16)}
	key, err := tok.GenerateHMACKey(t.Context(), token.SHA256, m.id, "mark")
	require.NoError(t, err)
	m.mac, err = tok.MAC(t.Context(), key, []byte("text"))
	require.NoError(t, err)
	return m
}

func (m *mark) prove(_ context.Context, p token.Prover) error {
	m.mu.Lock()
	m.asked = append(m.asked, p.Names())
	want := m.mac
	m.mu.Unlock()
	mac, err := p.MAC(token.SHA256, m.id, []byte("text"))
	if err != nil {
		return errors.Join(token.ErrAnotherToken, err)
	}
	if string(mac) != string(want) {
		return token.ErrAnotherToken
	}
	return nil
}

func (m *mark) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.asked)
}

// samePIN gives a token the PIN of another, so that one file serves both.
func samePIN(t *testing.T, of softhsm.TestToken, as softhsm.TestToken) {
	t.Helper()
	c := pkcs11.New(of.Module)
	s, err := c.OpenSession(slotOf(t, c, of.Label), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.CloseSession(s)) }()
	require.NoError(t, c.Login(s, pkcs11.CKU_USER, of.PIN()))
	require.NoError(t, c.SetPIN(s, of.PIN(), as.PIN()))
}

// A token that does not prove that it is the one is refused when it has logged in and before anything is made, and nobody stays logged in.
func TestProofAtOpen(t *testing.T) {
	cfg, tok := newConfig(t)
	m := newMark(t, cfg)
	other := softhsm.NewToken(t)
	f := newFaulty(&cfg)
	cfg.Prove = m.prove
	cfg.URI = other.URI(other.PINFile)
	_, err := token.Open(t.Context(), cfg)
	require.ErrorIs(t, err, token.ErrAnotherToken)
	require.ErrorIs(t, err, token.ErrKeyMissing)
	require.Zero(t, f.count("C_GenerateKey"))
	require.Equal(t, 1, f.count("C_Login"))
	require.Equal(t, f.count("C_OpenSession"), f.count("C_CloseSession"))

	cfg.URI = tok.URI(tok.PINFile)
	opened := open(t, cfg)
	require.Equal(t, opened.Info().Names(), m.asked[1])
	require.Equal(t, 2, m.count())
	m.mac = append([]byte{m.mac[0] ^ 1}, m.mac[1:]...)
	_, err = token.Open(t.Context(), cfg)
	require.ErrorIs(t, err, token.ErrAnotherToken)
}

// What keeps somebody from deciding is no decision.
func TestProofThatCannotBeAskedFor(t *testing.T) {
	cfg, _ := newConfig(t)
	m := newMark(t, cfg)
	f := newFaulty(&cfg)
	trouble := errors.New("the store does not answer")
	cfg.Prove = func(context.Context, token.Prover) error { return trouble }
	_, err := token.Open(t.Context(), cfg)
	require.ErrorIs(t, err, trouble)
	require.Equal(t, f.count("C_OpenSession"), f.count("C_CloseSession"))

	// An operation that failed is not left active on the session that stays open.
	var signed error
	cfg.Prove = func(_ context.Context, p token.Prover) error {
		f.fail("C_Sign", 1, pkcs11.CKR_DATA_INVALID)
		_, signed = p.MAC(token.SHA256, m.id, []byte("text"))
		return nil
	}
	tok := open(t, cfg)
	require.Error(t, signed)
	require.NoError(t, tok.HealthyMAC(t.Context(), tok.HMACKey(token.SHA256, m.id)))
}

// Key pairs prove as well.
func TestProofByASignature(t *testing.T) {
	cfg, _ := newConfig(t)
	id := randomBytes(t, 16)
	_, public, err := open(t, cfg).GenerateKeyPair(t.Context(), pubkey.RSA2048, id, "mark")
	require.NoError(t, err)
	var first []byte
	cfg.Prove = func(_ context.Context, p token.Prover) error {
		signature, err := p.Sign(pubkey.RSA2048, pubkey.PKCS1SHA256, id, []byte("text"))
		require.NoError(t, err)
		require.NoError(t, public.VerifyMessage(pubkey.PKCS1SHA256, []byte("text"), signature))
		if first != nil {
			requireSame(t, first, signature, "signature")
		}
		first = signature
		_, missing := p.Sign(pubkey.RSA2048, pubkey.PKCS1SHA256, []byte("none"), []byte("text"))
		require.ErrorIs(t, missing, token.ErrKeyMissing)
		return nil
	}
	open(t, cfg)
	open(t, cfg)
	require.NotEmpty(t, first)
}

// Of tokens that have all names in common the proof tells which is meant, whichever comes first; without one none is opened.
func TestProofAmongTwins(t *testing.T) {
	for _, which := range []int{0, 1} {
		cfg, first := newConfig(t)
		second := softhsm.NewToken(t)
		both := []softhsm.TestToken{first, second}
		open(t, cfg) // so that the module stays initialised
		samePIN(t, second, first)
		meant := cfg
		meant.URI = both[which].URI(first.PINFile)
		m := newMark(t, meant)
		names := token.Names{Label: "twin", Serial: "1", Manufacturer: "SoftHSM", Model: "m"}
		cfg.SetWrap(func(module token.Module) token.Module {
			return &twinned{twins{module, names}, map[string]bool{first.Label: true, second.Label: true}}
		})
		cfg.URI = token.URI{Token: "twin", ModulePath: first.Module, PINFile: first.PINFile}.String()
		cfg.Known = names
		requireRefused(t, cfg, token.TokenAmbiguous, first.PIN())
		cfg.Prove = m.prove
		tok := open(t, cfg)
		_, err := tok.MAC(t.Context(), tok.HMACKey(token.SHA256, m.id), []byte("text"))
		require.NoError(t, err)
		m.id = []byte("no such key")
		_, err = token.Open(t.Context(), cfg)
		require.ErrorIs(t, err, token.ErrAnotherToken)
	}
}

// twinned gives two tokens alone one name.
type twinned struct {
	twins
	labels map[string]bool
}

func (m *twinned) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	info, err := m.Module.GetTokenInfo(slot)
	if err != nil || !m.labels[info.Label] {
		return info, err
	}
	return m.twins.GetTokenInfo(slot)
}

// Names that are known choose among tokens that fit the URI; the PIN is sent to none that has neither the label nor the serial.
func TestKnownNamesChoose(t *testing.T) {
	cfg, tok := newConfig(t)
	addToken(t, tok)
	f := newFaulty(&cfg)
	known := open(t, cfg).Info().Names()
	logins := f.count("C_Login")
	byLabel := cfg
	byLabel.URI = token.URI{Token: tok.Label, ModulePath: tok.Module, PINFile: tok.PINFile}.String()
	requireRefused(t, byLabel, token.TokenAmbiguous, tok.PIN())
	for _, change := range []func(*token.Names){func(*token.Names) {}, func(n *token.Names) { n.Model = "before the update" },
		func(n *token.Names) { n.Label = "before it was relabelled" }} {
		byLabel.Known = known
		change(&byLabel.Known)
		require.Equal(t, tok.Serial, open(t, byLabel).Info().Serial)
	}
	byLabel.Known = known
	byLabel.Known.Serial = "of neither"
	requireRefused(t, byLabel, token.TokenAmbiguous, tok.PIN())

	cfg.Known = known
	cfg.Known.Serial = "before it was replaced"
	open(t, cfg)
	cfg.Known.Label = "another"
	e := requireRefused(t, cfg, token.SerialMismatch, tok.PIN())
	require.ErrorIs(t, e, token.ErrAnotherToken)
	require.Contains(t, e.Error(), `"before it was replaced"`)
	require.Contains(t, e.Error(), tok.Serial)
	require.Equal(t, logins, f.count("C_Login"), "all the others found the process logged in")
}

// The proof is asked for again when the module was initialised anew, before any call is let in.
func TestProofAfterARestart(t *testing.T) {
	cfg, made := newConfig(t)
	m := newMark(t, cfg)
	cfg.CallTimeout = 500 * time.Millisecond
	cfg.Prove = m.prove
	tok, err := token.Open(t.Context(), cfg) // alone, so that the module can be initialised anew
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tok.Close()) })
	key := tok.HMACKey(token.SHA256, m.id)
	asked := m.count()
	loseSight(t, tok, key, directory(t, made))
	right := m.mac
	m.mu.Lock()
	m.mac = []byte("of another token")
	m.mu.Unlock()
	mac := func() error { _, err := tok.MAC(t.Context(), key, []byte("text")); return err }
	require.Eventually(t, func() bool {
		err := mac()
		require.ErrorIs(t, err, token.ErrGone)
		return errors.Is(err, token.ErrAnotherToken)
	}, patience, tick)
	require.Greater(t, m.count(), asked)
	m.mu.Lock()
	m.mac = right
	m.mu.Unlock()
	require.Eventually(t, func() bool { return mac() == nil }, patience, tick)
}

// blind is a module that sees no object before it was initialised a second time.
type blind struct {
	token.Module
	initialized int
}

func (b *blind) Initialize(o ...pkcs11.InitializeOption) error {
	b.initialized++
	return b.Module.Initialize(o...)
}

func (b *blind) FindObjects(s pkcs11.SessionHandle, n int) ([]pkcs11.ObjectHandle, bool, error) {
	if b.initialized < 2 {
		return nil, false, nil
	}
	return b.Module.FindObjects(s, n)
}

// A key that the module merely does not see is no proof of another token.
func TestProofByAKeyOutOfSight(t *testing.T) {
	cfg, _ := newConfig(t)
	m := newMark(t, cfg)
	cfg.Prove = m.prove
	b := &blind{}
	cfg.SetWrap(func(module token.Module) token.Module {
		b.Module = module
		return b
	})
	open(t, cfg)
	require.Equal(t, 2, b.initialized)
	require.Equal(t, 2, m.count())
}

// Two tokens without a serial do not have the same one: the PIN is not sent to a token that has no name of the one that is meant.
func TestNoSerialIsNoName(t *testing.T) {
	cfg, m := newConfigThrough(t)
	m.AtStart("token serial=%20")
	uri, err := token.ParseURI(cfg.URI)
	require.NoError(t, err)
	cfg.URI = token.URI{ModulePath: uri.ModulePath, PINFile: uri.PINFile}.String()
	cfg.Known = token.Names{Label: "another", Manufacturer: "another", Model: "another"}
	_, err = token.Open(t.Context(), cfg)
	var refused *token.OpenError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, token.SerialMismatch, refused.Reason)
	require.Zero(t, m.Counters()["C_Login"].Calls)
	cfg.Known.Label = uri.Token
	tok, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	require.Empty(t, tok.Info().Serial)
	require.NoError(t, tok.Close())
}
