package audit

import (
	"path/filepath"
	"strconv"
	"testing"
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
