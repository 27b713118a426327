package bench

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"testing"
	"time"

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
	ids := make([][]byte, coldKeys)
	store := newStore(b, filepath.Join(b.TempDir(), "cold"))
	var batch []keystore.Change
	for i := range ids {
		name := sha256.Sum256(fmt.Append(nil, "cold", i))
		ids[i] = name[:16]
		require.NoError(b, r.direct.generateKey(ids[i]))
		record := keystore.Key{Region: region, Account: pkcs11kms.DefaultAccountID, ID: coldKey(i), State: keystore.Enabled,
			Spec: "HMAC_256", Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: ids[i]}
		if batch = append(batch, record.Put(0)); len(batch) == keystore.MaxChanges || i == len(ids)-1 {
			_, err := store.Commit(ctx, batch...)
			require.NoError(b, err)
			batch = batch[:0]
		}
	}
	b.ResetTimer()
	var ours, theirs time.Duration
	for range b.N {
		client, err := pkcs11kms.New(ctx, pkcs11kms.Config{Audit: audit.Discard, Store: store,
			Regions: map[string]pkcs11kms.Region{region: r.region}, Quotas: pkcs11kms.Quotas{NoRates: true}})
		require.NoError(b, err)
		used := &sized{client: client}
		began := time.Now()
		for i := range ids {
			require.NoError(b, used.mac(coldKey(i)))
		}
		ours += time.Since(began)
		b.StopTimer()
		require.NoError(b, client.Close())
		began = time.Now()
		for _, id := range ids {
			require.NoError(b, r.direct.find(id))
		}
		theirs += time.Since(began)
		b.StartTimer()
	}
	b.ReportMetric(float64(ours.Microseconds())/float64(b.N)/coldKeys, "us/key")
	b.ReportMetric(float64(ours)/float64(theirs), "x/search")
}

func coldKey(i int) string { return fmt.Sprintf("%08x-0000-4000-8000-00000000c01d", i) }

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
