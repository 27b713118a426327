package bench

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ThalesIgnite/crypto11"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/bench/cloop"
)

// rig is one token with one key, and the three ways to use it.
type rig struct {
	bridge *pkcs11kms.Bridge
	client *pkcs11kms.Client // of the root
	store  keystore.Store
	region pkcs11kms.Region
	keyID  string
	ckaID  []byte // of the key
	direct *direct
	eleven *crypto11.SecretKey
	loop   *cloop.Loop
}

var newRig = sync.OnceValue(func() *rig { return &rig{} })

// setUp makes the rig once in the process. crypto11 comes first: it must be the one that initialises the module.
func setUp(b *testing.B) *rig {
	r := newRig()
	if r.client != nil {
		return r
	}
	tok := softhsm.NewToken(discard{b})
	eleven, err := crypto11.Configure(&crypto11.Config{Path: tok.Module, TokenSerial: tok.Serial, Pin: tok.PIN(), MaxSessions: 64})
	require.NoError(b, err)
	*r = *rigOn(b, tok, filepath.Join(filepath.Dir(tok.PINFile), "bench"), 0)
	r.eleven, err = eleven.FindKey(r.ckaID, nil)
	require.NoError(b, err)
	require.NotNil(b, r.eleven)
	return r
}

// rigOn makes a rig on a token, but for crypto11. The store is at path, and sessions are the most that the Client may have; 0: the default.
func rigOn(b *testing.B, tok softhsm.TestToken, path string, sessions int) *rig {
	ctx := context.Background()
	uri := tok.URI(tok.PINFile)
	if tok.Serial == "" {
		uri = strings.Replace(uri, ";serial=", "", 1) // it is not known
	}
	r := &rig{region: pkcs11kms.Region{Token: uri}}
	r.store = newStore(b, path)
	var err error
	r.bridge, err = pkcs11kms.Open(ctx, pkcs11kms.Config{
		Audit:       audit.Discard,
		Regions:     map[string]pkcs11kms.Region{region: r.region},
		Store:       r.store,
		Quotas:      pkcs11kms.Quotas{NoRates: true},
		MaxSessions: sessions,
	})
	require.NoError(b, err)
	client, err := r.bridge.Client(region)
	require.NoError(b, err)
	r.client = client.As(r.bridge.Root())
	key, err := r.client.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC"})
	require.NoError(b, err)
	r.keyID = *key.KeyMetadata.KeyId
	r.direct = newDirect(b, tok)
	r.ckaID = r.ckaIDOf(b, r.keyID)
	r.direct.key = r.object(b, r.keyID, pkcs11.CKO_SECRET_KEY)
	r.loop, err = cloop.Open(tok.Module, r.direct.slot, uint(r.direct.key), pkcs11.CKM_SHA256_HMAC)
	require.NoError(b, err)
	return r
}

// mac makes a MAC of 32 bytes with the rig's key as somebody's client.
func (r *rig) mac(ctx context.Context, client *pkcs11kms.Client) error {
	_, err := client.GenerateMac(ctx,
		&kms.GenerateMacInput{KeyId: &r.keyID, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: message32})
	return err
}

var message32 = make([]byte, 32)

// ckaIDOf is the CKA_ID of a key's object.
func (r *rig) ckaIDOf(b *testing.B, keyID string) []byte {
	rec, err := r.store.Get(context.Background(), keystore.KeyRef(region, pkcs11kms.DefaultAccountID, keyID))
	require.NoError(b, err)
	rec.Seal = nil
	record, err := keystore.DecodeKey(rec)
	require.NoError(b, err)
	return record.CKAID
}

// object is the handle of a key's object.
func (r *rig) object(b *testing.B, keyID string, class uint) pkcs11.ObjectHandle {
	s := <-r.direct.sessions
	defer func() { r.direct.sessions <- s }()
	ctx := r.direct.ctx
	require.NoError(b, ctx.FindObjectsInit(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_ID, r.ckaIDOf(b, keyID)), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class)}))
	found, _, err := ctx.FindObjects(s, 2)
	require.NoError(b, err)
	require.Len(b, found, 1)
	require.NoError(b, ctx.FindObjectsFinal(s))
	return found[0]
}

// discard keeps the token of the first benchmark for all: it lives as long as the process.
type discard struct{ *testing.B }

func (discard) Cleanup(func()) {}

func newStore(b *testing.B, dir string) keystore.Store {
	path := dir + ".db"
	require.NoError(b, sqlite.Create(path))
	store, err := sqlite.Open(context.Background(), path, sqlite.Options{})
	require.NoError(b, err)
	return store
}

// direct is a pool of sessions and a handle found once: the least that a program can do with miekg/pkcs11.
type direct struct {
	ctx      *pkcs11.Ctx
	slot     uint
	key      pkcs11.ObjectHandle
	sessions chan pkcs11.SessionHandle
}

func newDirect(b *testing.B, tok softhsm.TestToken) *direct {
	d := &direct{ctx: pkcs11.New(tok.Module), sessions: make(chan pkcs11.SessionHandle, 16)}
	if err := d.ctx.Initialize(); err != nil { // p11-kit gives each that asks a list of its own
		require.Equal(b, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED), err)
	}
	slots, err := d.ctx.GetSlotList(true)
	require.NoError(b, err)
	for _, slot := range slots {
		info, err := d.ctx.GetTokenInfo(slot)
		require.NoError(b, err)
		if info.Label != tok.Label {
			continue
		}
		d.slot = slot
		for range cap(d.sessions) {
			s, err := d.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
			require.NoError(b, err)
			d.sessions <- s
		}
	}
	return d
}

func (d *direct) mac(message []byte) ([]byte, error) {
	return d.sign(pkcs11.CKM_SHA256_HMAC, d.key, message)
}

func (d *direct) sign(mechanism uint, key pkcs11.ObjectHandle, data []byte) ([]byte, error) {
	s := <-d.sessions
	defer func() { d.sessions <- s }()
	if err := d.ctx.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, key); err != nil {
		return nil, err
	}
	return d.ctx.Sign(s, data)
}

func (d *direct) generateKey(id []byte) error {
	s := <-d.sessions
	defer func() { d.sessions <- s }()
	_, err := d.ctx.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
	})
	return err
}

func (r *rig) elevenMAC(message []byte) ([]byte, error) {
	h, err := r.eleven.NewHMAC(pkcs11.CKM_SHA256_HMAC, 0)
	if err != nil {
		return nil, err
	}
	if _, err := h.Write(message); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}
