package server

import (
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// envSoak asks for TestSoak and says how long it runs, such as 10m.
const envSoak = "PKCS11KMS_SOAK"

// What memory may grow by between the end of the warm-up, an eighth of the time, and the end.
const (
	heapSlack = 16 << 20
	rssSlack  = 64 << 20
)

// memory is what the process uses, clients included.
type memory struct {
	heap, rss  int64
	goroutines int
}

func measure(t *testing.T) memory {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	statm, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	require.NoError(t, err)
	return memory{int64(stats.HeapAlloc), pages * int64(os.Getpagesize()), runtime.NumGoroutine()}
}

// TestSoak keeps 1,000 connections busy and sees to it that memory stays within bounds.
func TestSoak(t *testing.T) {
	if os.Getenv(envSoak) == "" {
		t.Skipf("runs by hand: %s=10m", envSoak)
	}
	duration, err := time.ParseDuration(os.Getenv(envSoak))
	require.NoError(t, err)
	const connections = 1000
	f := newKnownFixture(t)
	f.log.discard = true
	r := f.run(t, Listen{Grace: patience})
	end := time.Now().Add(duration)
	var answers, failures atomic.Int64
	var wg sync.WaitGroup
	for worker := range connections {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
			defer client.CloseIdleConnections()
			for time.Now().Before(end) {
				// Signed anew before the signatures are too old.
				kinds := append(f.good(t, r.url, worker), f.bad(t, r.url)...)
				for i := 0; i < 20*len(kinds) && time.Now().Before(end); i++ {
					k := kinds[i%len(kinds)]
					res, err := client.Do(k.again())
					if err == nil {
						err = k.check(res)
					}
					answers.Add(1)
					if err != nil && failures.Add(1) < 10 {
						assert.NoError(t, err)
					}
				}
			}
		})
	}
	warm := memory{}
	tick := time.NewTicker(duration / 8)
	defer tick.Stop()
	for range 7 {
		<-tick.C
		m := measure(t)
		t.Logf("%d answers, heap %.1f MiB, resident %.1f MiB, %d goroutines", answers.Load(), mib(m.heap), mib(m.rss), m.goroutines)
		if warm == (memory{}) {
			warm = m
		}
		require.LessOrEqual(t, m.heap, warm.heap+warm.heap/4+heapSlack)
		require.LessOrEqual(t, m.rss, warm.rss+warm.rss/4+rssSlack)
	}
	wg.Wait()
	require.Zero(t, failures.Load())
	t.Logf("%d answers in %v over %d connections", answers.Load(), duration, connections)
	r.stop()
	<-r.ended
	require.NoError(t, r.err)
	require.Eventually(t, func() bool { return runtime.NumGoroutine() < connections/10 }, patience, 10*time.Millisecond)
	last := measure(t)
	t.Logf("at the end: heap %.1f MiB, resident %.1f MiB, %d goroutines", mib(last.heap), mib(last.rss), last.goroutines)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
