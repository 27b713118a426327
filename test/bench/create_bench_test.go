package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"
)

func (r *rig) createKey(spec types.KeySpec, usage types.KeyUsageType) error {
	_, err := r.client.CreateKey(context.Background(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
	return err
}

// BenchmarkCreateKey measures CreateKey beside what it cannot do without: the token's own making of a key, and three times that what was
// written is on the disk.
func BenchmarkCreateKey(b *testing.B) {
	r := setUp(b)
	file, err := os.Create(filepath.Join(b.TempDir(), "fsync"))
	require.NoError(b, err)
	defer file.Close()
	i := 0
	generate := func() error { i++; return r.direct.generateKey(fmt.Appendf(nil, "bench-%d", i)) }
	compare(b, 1, func() error { return r.createKey(types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac) }, map[string]rival{
		"miekg": each(generate),
		"miekg+3fsync": each(func() error {
			for at := range int64(3) {
				if _, err := file.WriteAt([]byte("a record of some size"), at*4096); err != nil {
					return err
				}
				if err := file.Sync(); err != nil {
					return err
				}
			}
			return generate()
		}),
	})
}

// BenchmarkMacWhileMaking measures GenerateMac while CreateKey makes RSA keys, beside the same while a program makes them that calls the
// module itself.
func BenchmarkMacWhileMaking(b *testing.B) {
	r := setUp(b)
	const turns = 4
	var ours, theirs time.Duration
	b.ResetTimer()
	for turn := range turns {
		n := (b.N + turn) / turns
		ours += r.macsDuring(b, n, func() error { return r.createKey(types.KeySpecRsa2048, types.KeyUsageTypeSignVerify) })
		b.StopTimer()
		theirs += r.macsDuring(b, n, r.direct.generatePair)
		b.StartTimer()
	}
	b.ReportMetric(float64(ours)/float64(max(theirs, 1)), "x/C_GenerateKeyPair")
}

// macsDuring makes n MACs by four goroutines while another one makes keys, and says how long they took.
func (r *rig) macsDuring(b *testing.B, n int, makeKey func() error) time.Duration {
	var stop atomic.Bool
	var making sync.WaitGroup
	making.Go(func() {
		for !stop.Load() {
			if err := makeKey(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	defer making.Wait()
	defer stop.Store(true)
	return timed(b, n, 4, func() error { return r.mac(context.Background(), r.client) })
}

// generatePair makes a pair of RSA keys of the session.
func (d *direct) generatePair() error {
	s := <-d.sessions
	defer func() { d.sessions <- s }()
	public, private, err := d.ctx.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 2048), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)},
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)})
	if err != nil {
		return err
	}
	if err := d.ctx.DestroyObject(s, public); err != nil {
		return err
	}
	return d.ctx.DestroyObject(s, private)
}
