package bench

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// BenchmarkManyRecords: what a key that is in use costs, and a Client's start, with a million keys on record beside ten.
func BenchmarkManyRecords(b *testing.B) {
	r := setUp(b)
	ten, million := newSized(b, r, 10), newSized(b, r, 1_000_000)
	ctx := context.Background()
	mac := func(s *sized) func() error { return func() error { return s.mac(s.keyID) } }
	b.Run("GenerateMac", func(b *testing.B) {
		compare(b, 1, mac(million), map[string]rival{"10-keys": each(mac(ten))})
	})
	start := func(s *sized) func() error {
		return func() error {
			c, err := statedir.New(ctx, s.cfg)
			if err != nil {
				return err
			}
			return c.Close()
		}
	}
	b.Run("Start", func(b *testing.B) {
		compare(b, 1, start(million), map[string]rival{"10-keys": each(start(ten))})
	})
}

// coldKeys are in the token, and all of them are used.
const coldKeys = 1000

// BenchmarkColdStart measures the first use of each of a thousand keys after a start, beside a search of the token for each, which is what
// a program does that has only their CKA_ID.
func BenchmarkColdStart(b *testing.B) {
	r := setUp(b)
	ctx := context.Background()
	store := newStore(b, filepath.Join(b.TempDir(), "cold"))
	keys := r.keys(b, store, coldKeys)
	b.ResetTimer()
	var ours, theirs time.Duration
	for range b.N {
		client, err := pkcs11kms.New(ctx, pkcs11kms.Config{Audit: audit.Discard, Store: store,
			Regions: map[string]pkcs11kms.Region{region: r.region}, Quotas: pkcs11kms.Quotas{NoRates: true}})
		require.NoError(b, err)
		used := &sized{client: client}
		began := time.Now()
		for _, id := range keys {
			require.NoError(b, used.mac(id))
		}
		ours += time.Since(began)
		b.StopTimer()
		require.NoError(b, client.Close())
		began = time.Now()
		for _, id := range keys {
			require.NoError(b, r.direct.find(objectOf(id)))
		}
		theirs += time.Since(began)
		b.StartTimer()
	}
	b.ReportMetric(float64(ours.Microseconds())/float64(b.N)/coldKeys, "us/key")
	b.ReportMetric(float64(ours)/float64(theirs), "x/search")
}

// keys makes objects in the token, and records of them in a store.
func (r *rig) keys(b *testing.B, store keystore.Store, n int) (ids []string) {
	var batch []keystore.Change
	for i := range n {
		id := uuid.NewString()
		ids = append(ids, id)
		require.NoError(b, r.direct.generateKey(objectOf(id)))
		record := keystore.Key{Region: region, Account: pkcs11kms.DefaultAccountID, ID: id, State: keystore.Enabled,
			Spec: "HMAC_256", Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: objectOf(id)}
		if batch = append(batch, record.Put(0)); len(batch) == keystore.MaxChanges || i == n-1 {
			_, err := store.Commit(context.Background(), batch...)
			require.NoError(b, err)
			batch = batch[:0]
		}
	}
	return ids
}

// objectOf is the CKA_ID that goes with a key's id here.
func objectOf(id string) []byte { u := uuid.MustParse(id); return u[:] }

// find searches for a key by its CKA_ID.
func (d *direct) find(id []byte) error {
	s := <-d.sessions
	defer func() { d.sessions <- s }()
	err := d.ctx.FindObjectsInit(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_ID, id), pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY)})
	if err != nil {
		return err
	}
	if _, _, err := d.ctx.FindObjects(s, 2); err != nil {
		return err
	}
	return d.ctx.FindObjectsFinal(s)
}
