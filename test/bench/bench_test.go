// Package bench measures the Client beside its rivals on one token, in one run: direct calls of miekg/pkcs11,
// crypto11, and a loop in C. Run it by make bench. Each line shows our own time and, as ratios, how many times longer an operation takes
// through the Client than by the rival. Ours and theirs take turns, so that a drift of the machine hits both.
package bench

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

const region = "us-east-1"

var sizes = []struct {
	name  string
	bytes int
}{{"32B", 32}, {"4KiB", 4096}}

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
	turns := min(max(b.N/(16*goroutines), 1), 64) // short ones, since a busy machine changes its pace within a second
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
		b.ReportMetric(float64((own-time).Nanoseconds())/float64(b.N)/1e3, "us-more/"+name)
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
		withoutEnd := each(func() error { return r.mac(context.Background(), r.client) })
		rivals := map[string]rival{
			"miekg":    each(func() error { _, err := r.direct.mac(message); return err }),
			"crypto11": each(func() error { _, err := r.elevenMAC(message); return err }),
			"C":        r.inC(message),
		}
		for _, goroutines := range []int{1, 4, 16} {
			for _, name := range []string{"no-deadline", "deadline"} {
				ctx := contexts[name]
				rivals := maps.Clone(rivals)
				if name == "deadline" && size.bytes == len(message32) {
					rivals["no-deadline"] = withoutEnd
				}
				if goroutines == 1 { // it has one session
					rivals["crossing"] = each(func() error { return r.loop.Once(message) })
				}
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
