// Package bench measures the Client beside its rivals on one token, in one run: direct calls of miekg/pkcs11,
// crypto11, and a loop in C. Run it by make bench. Each line shows our own time and, as ratios, how many times longer an operation takes
// through the Client than by the rival. Ours and theirs take turns, so that a drift of the machine hits both.
package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

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

const region = "us-east-1"

var sizes = []struct {
	name  string
	bytes int
}{{"32B", 32}, {"4KiB", 4096}}

// rig is one token with one key, and the three ways to use it.
type rig struct {
	client *pkcs11kms.Client
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
	r.region = pkcs11kms.Region{Token: tok.URI(tok.PINFile)}
	store := newStore(b, filepath.Join(filepath.Dir(tok.PINFile), "bench"))
	client, err := pkcs11kms.New(context.Background(), pkcs11kms.Config{
		Audit:   audit.Discard,
		Regions: map[string]pkcs11kms.Region{region: r.region},
		Store:   store,
		Quotas:  pkcs11kms.Quotas{NoRates: true},
	})
	require.NoError(b, err)
	key, err := client.CreateKey(context.Background(), &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC"})
	require.NoError(b, err)
	r.store, r.keyID = store, *key.KeyMetadata.KeyId
	r.direct = newDirect(b, tok)
	r.ckaID = r.ckaIDOf(b, r.keyID)
	r.direct.key = r.object(b, r.keyID, pkcs11.CKO_SECRET_KEY)
	r.eleven, err = eleven.FindKey(r.ckaID, nil)
	require.NoError(b, err)
	require.NotNil(b, r.eleven)
	r.loop, err = cloop.Open(tok.Module, r.direct.slot, uint(r.direct.key), pkcs11.CKM_SHA256_HMAC)
	require.NoError(b, err)
	r.client = client
	return r
}

// ckaIDOf is the CKA_ID of a key's object.
func (r *rig) ckaIDOf(b *testing.B, keyID string) []byte {
	rec, err := r.store.Get(context.Background(), keystore.KeyRef(region, pkcs11kms.DefaultAccountID, keyID))
	require.NoError(b, err)
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
	slots, err := d.ctx.GetSlotList(true)
	require.NoError(b, err)
	for _, slot := range slots {
		info, err := d.ctx.GetTokenInfo(slot)
		require.NoError(b, err)
		if info.SerialNumber != tok.Serial {
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

// timed runs op n times on some goroutines.
func timed(b *testing.B, n, goroutines int, op func() error) time.Duration {
	var wg sync.WaitGroup
	began := time.Now()
	for g := range goroutines {
		share := n / goroutines
		if g < n%goroutines {
			share++
		}
		wg.Go(func() {
			for range share {
				if err := op(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}

// rival makes n operations on some goroutines or threads, and says how long that took.
type rival func(b *testing.B, n, goroutines int) time.Duration

// each is the rival that makes one operation at a time on each goroutine.
func each(op func() error) rival {
	return func(b *testing.B, n, goroutines int) time.Duration { return timed(b, n, goroutines, op) }
}

// inC is the loop in C.
func (r *rig) inC(message []byte) rival {
	return func(b *testing.B, n, goroutines int) time.Duration {
		took, err := r.loop.Run(n, goroutines, message)
		require.NoError(b, err)
		return took
	}
}

// compare runs b.N operations of ours and of each rival in turns, and reports the ratios.
func compare(b *testing.B, goroutines int, ours func() error, rivals map[string]rival) {
	const turns = 64 // short ones, since a busy machine changes its pace within a second
	var own time.Duration
	theirs := map[string]time.Duration{}
	b.ReportAllocs()
	b.ResetTimer()
	for turn := range turns {
		n := b.N / turns
		if turn < b.N%turns {
			n++
		}
		own += timed(b, n, goroutines, ours)
		b.StopTimer()
		for name, rival := range rivals {
			theirs[name] += rival(b, n, goroutines)
		}
		b.StartTimer()
	}
	for name, time := range theirs {
		b.ReportMetric(float64(own)/float64(time), "x/"+name)
	}
}

func BenchmarkMac(b *testing.B) {
	r := setUp(b)
	cancellable, cancel := context.WithCancel(context.Background())
	defer cancel()
	contexts := map[string]context.Context{"no-deadline": context.Background(), "deadline": cancellable}
	for _, size := range sizes {
		message := make([]byte, size.bytes)
		mac, err := r.direct.mac(message)
		require.NoError(b, err)
		rivals := map[string]rival{
			"miekg":    each(func() error { _, err := r.direct.mac(message); return err }),
			"crypto11": each(func() error { _, err := r.elevenMAC(message); return err }),
			"C":        r.inC(message),
		}
		for _, goroutines := range []int{1, 4, 16} {
			for _, name := range []string{"no-deadline", "deadline"} {
				ctx := contexts[name]
				b.Run(fmt.Sprintf("GenerateMac/%s/%d/%s", size.name, goroutines, name), func(b *testing.B) {
					compare(b, goroutines, func() error {
						_, err := r.client.GenerateMac(ctx,
							&kms.GenerateMacInput{KeyId: &r.keyID, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: message})
						return err
					}, rivals)
				})
				b.Run(fmt.Sprintf("VerifyMac/%s/%d/%s", size.name, goroutines, name), func(b *testing.B) {
					compare(b, goroutines, func() error {
						_, err := r.client.VerifyMac(ctx,
							&kms.VerifyMacInput{KeyId: &r.keyID, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: message, Mac: mac})
						return err
					}, rivals)
				})
			}
		}
	}
}

func BenchmarkCreateKey(b *testing.B) {
	r := setUp(b)
	i := 0
	compare(b, 1, func() error {
		_, err := r.client.CreateKey(context.Background(), &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC"})
		return err
	}, map[string]rival{"miekg": each(func() error { i++; return r.direct.generateKey(fmt.Appendf(nil, "bench-%d", i)) })})
}
