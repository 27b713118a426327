package audit

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// BenchmarkWriters records uses by 1 and by 64 callers at once, with nothing between: what a log costs a call beside Discard.
func BenchmarkWriters(b *testing.B) {
	for _, callers := range []int{1, 64} {
		for _, kind := range []string{"discard", "file", "changes"} {
			b.Run(kind+"/"+strconv.Itoa(callers), func(b *testing.B) {
				w := Discard
				if kind != "discard" {
					l, err := Open(filepath.Join(b.TempDir(), "audit"), Options{RotateBytes: 1 << 40})
					if err != nil {
						b.Fatal(err)
					}
					defer l.Close()
					w = l
					defer func() {
						s := l.Stats()
						b.ReportMetric(float64(s.Records)/float64(max(1, s.Writes)), "records/write")
					}()
				}
				e := Event{Service: "kms", Operation: "GenerateMac", ReadOnly: true, Region: "eu-west-1", Account: "111122223333",
					Principal: "arn:aws:iam::111122223333:user/team/alice", PrincipalID: "AIDA7", RequestID: "r",
					Resource: "arn:aws:kms:eu-west-1:111122223333:key/k", Input: &input{KeyId: ptr("k")}, Recorded: every[:1]}
				e.Intended = kind == "changes"
				b.SetBytes(int64(len(AppendRecord(nil, &e, Options{}.withDefaults().Now())) + maxLink))
				b.ReportAllocs()
				b.ResetTimer()
				perCaller := b.N/callers + 1
				done := make(chan error)
				for range callers {
					go func() {
						var err error
						for range perCaller {
							if err == nil {
								err = w.Record(b.Context(), e)
							}
						}
						done <- err
					}()
				}
				for range callers {
					if err := <-done; err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkRotation records uses by 8 callers, with files that are closed every few thousand records and with one file: how long the
// unluckiest call waits. Each caller makes a pause after a record, so that what is measured is waiting for the log and not for a processor.
func BenchmarkRotation(b *testing.B) {
	for name, bytes := range map[string]int64{"files": 2 << 20, "file": 1 << 40} {
		b.Run(name, func(b *testing.B) { benchmarkWaits(b, bytes) })
	}
}

func benchmarkWaits(b *testing.B, rotateBytes int64) {
	dir := filepath.Join(b.TempDir(), "audit")
	l, err := Open(dir, Options{RotateBytes: rotateBytes})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	e := Event{Service: "kms", Operation: "GenerateMac", ReadOnly: true, Region: "eu-west-1", Account: "111122223333",
		Principal: "arn:aws:iam::111122223333:user/team/alice", PrincipalID: "AIDA7", RequestID: "r",
		Resource: "arn:aws:kms:eu-west-1:111122223333:key/k", Input: &input{KeyId: ptr("k")}, Recorded: every[:1]}
	const callers = 8
	took := make(chan []time.Duration)
	for range callers {
		go func() {
			var all []time.Duration
			for range b.N/callers + 1 {
				start := time.Now()
				if err := l.Record(b.Context(), e); err != nil {
					b.Error(err)
				}
				all = append(all, time.Since(start))
				time.Sleep(100 * time.Microsecond)
			}
			took <- all
		}()
	}
	var all []time.Duration
	for range callers {
		all = append(all, <-took...)
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)*999/1000])/1e6, "ms-p99.9")
	b.ReportMetric(float64(all[len(all)-1])/1e6, "ms-max")
	files, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(files)-2), "rotations")
}
