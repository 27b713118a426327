package bench

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// serveAudited is serveAPI with an audit log in files.
func serveAudited() int {
	tb := &childTB{}
	defer tb.end()
	log, err := audit.Open(filepath.Join(tb.TempDir(), "audit"), audit.Options{})
	if err != nil {
		tb.Fatalf("%v", err)
	}
	defer log.Close()
	return serveTo(tb, kmstest.Configure(func(cfg *pkcs11kms.Config) { cfg.Audit, cfg.SealRecords = log, true }))
}

// BenchmarkAuditedServer measures GenerateMac over loopback with the audit log in files, beside the same with audit.Discard: the goal is at
// most 10 % more CPU a request at 64.
func BenchmarkAuditedServer(b *testing.B) {
	audited, discarding := startChild(b, "audited"), startChild(b, "api")
	for _, connections := range []int{1, 64} {
		b.Run(fmt.Sprintf("GenerateMac/32B/%d", connections), func(b *testing.B) {
			with := newLoad(b, audited, requests(b, audited.served), connections)
			without := newLoad(b, discarding, requests(b, discarding.served), connections)
			inTurns(b, 16, with, without)
			n := float64(b.N)
			b.ReportMetric(float64(with.cpu.Nanoseconds())/1e3/n, "cpu-us/req")
			b.ReportMetric(float64(without.cpu.Nanoseconds())/1e3/n, "discard-cpu-us/req")
			b.ReportMetric(100*(float64(with.cpu)/float64(max(without.cpu, 1))-1), "%-more-cpu")
			b.ReportMetric(n/with.wall.Seconds(), "req/s")
			b.ReportMetric(n/without.wall.Seconds(), "discard-req/s")
			b.ReportMetric(with.percentile(99), "p99-us")
			b.ReportMetric(without.percentile(99), "discard-p99-us")
		})
	}
}

// BenchmarkAuditedMac measures GenerateMac in process with the audit log in files, beside audit.Discard.
func BenchmarkAuditedMac(b *testing.B) {
	for _, kind := range []string{"discard", "file"} {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", kind, callers), func(b *testing.B) {
				w := audit.Discard
				if kind == "file" {
					log, err := audit.Open(filepath.Join(b.TempDir(), "audit"), audit.Options{})
					if err != nil {
						b.Fatal(err)
					}
					defer log.Close()
					w = log
				}
				client := kmstest.NewClient(b, kmstest.Configure(func(cfg *pkcs11kms.Config) { cfg.Audit = w }))
				key := kmstest.MustCreateKey(b, client, "HMAC_256")
				r := &rig{keyID: *key.KeyId}
				errs := make(chan error, callers)
				b.ResetTimer()
				for range callers {
					go func() {
						var err error
						for i := 0; i < b.N/callers+1 && err == nil; i++ {
							err = r.mac(b.Context(), client)
						}
						errs <- err
					}()
				}
				for range callers {
					if err := <-errs; err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
