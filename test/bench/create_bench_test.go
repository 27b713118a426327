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

// BenchmarkCreateKey measures CreateKey beside what it cannot do without: the token's own making of a key, three times that what was
// written is on the disk, and the search before which SoftHSM does not see what other processes have made (internal/token/change.go). It
// looks at every object of the token, and the benchmark makes three for each key of ours.
func BenchmarkCreateKey(b *testing.B) {
	r := setUp(b)
	file, err := os.Create(filepath.Join(b.TempDir(), "fsync"))
	require.NoError(b, err)
	defer file.Close()
	i := 0
	generate := func() error { i++; return r.direct.generateKey(fmt.Appendf(nil, "bench-%d", i)) }
	compare(b, 1, func() error { return r.createKey(types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac) }, map[string]rival{
		"miekg": each(generate),
		"miekg+search+3fsync": each(func() error {
			for at := range int64(3) {
				if _, err := file.WriteAt([]byte("a record of some size"), at*4096); err != nil {
					return err
				}
				if err := file.Sync(); err != nil {
					return err
				}
			}
			if err := r.direct.search(); err != nil {
				return err
			}
			return generate()
		}),
	})
}

// search looks for what is not there.
func (d *direct) search() error {
	s := <-d.sessions
	defer func() { d.sessions <- s }()
	if err := d.ctx.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_HW_FEATURE)}); err != nil {
		return err
	}
	if _, _, err := d.ctx.FindObjects(s, 1); err != nil {
		return err
	}
	return d.ctx.FindObjectsFinal(s)
}

// BenchmarkMacWhileMaking measures GenerateMac while CreateKey makes RSA keys, beside the same while a program makes them that calls the
// module itself.
func BenchmarkMacWhileMaking(b *testing.B) {
	const keys = 12 // in turns, since how long one takes is a matter of luck
	r := setUp(b)
	var ours, theirs float64
	for range b.N * keys {
		ours += r.macsDuring(b, func() error { return r.createKey(types.KeySpecRsa2048, types.KeyUsageTypeSignVerify) })
		theirs += r.macsDuring(b, r.direct.generatePair)
	}
	b.ReportMetric(ours/float64(b.N*keys), "MACs/s")
	b.ReportMetric(theirs/max(ours, 1), "x/C_GenerateKeyPair")
}

// macsDuring makes MACs by four goroutines while another one makes a key, and returns how many a second.
func (r *rig) macsDuring(b *testing.B, makeKey func() error) float64 {
	var stop atomic.Bool
	var macs atomic.Int64
	var making sync.WaitGroup
	for range 4 {
		making.Go(func() {
			for !stop.Load() {
				if err := r.mac(context.Background(), r.client); err != nil {
					b.Error(err)
					return
				}
				macs.Add(1)
			}
		})
	}
	began := time.Now()
	err := makeKey()
	took := time.Since(began)
	stop.Store(true)
	making.Wait()
	require.NoError(b, err)
	return float64(macs.Load()) / took.Seconds()
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
