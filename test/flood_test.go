package test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// envFlood says how long each flood of TestFlood lasts, such as 1m, and has the test hold the server to its times too.
const envFlood = "PKCS11KMS_FLOOD"

// manyConnections is how many connections each flood opens at least, however slow the machine is.
const manyConnections = 5000

// fullService is how soon after a flood everything must work again.
const fullService = time.Second

// TestFlood opens connections to both listeners as fast as this machine can, handshakes and requests that go nowhere among
// them, all from loopback like the genuine clients: the same peer to the server. Those who have proved themselves are served
// throughout, others are served or refused by a limit, and when the flood is over everything works again, in the same process.
func TestFlood(t *testing.T) {
	long(t)
	duration, strict := 2*time.Second, false
	if text := os.Getenv(envFlood); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		require.NoError(t, err)
		strict = true
	}
	limit, err := strconv.Atoi(unitSetting(t, "LimitNOFILE"))
	require.NoError(t, err)
	certFile, keyFile := selfSigned(t)
	socket := filepath.Join(shortDir(t), "admin")
	for _, tc := range []struct {
		name        string
		descriptors int
		flags       []string
	}{
		{"plain, at the unit's limit", limit, []string{"--admin-listen", "127.0.0.1:0"}},
		{"TLS and admin socket, at the unit's limit", limit,
			[]string{"--tls-cert", certFile, "--tls-key", keyFile, "--admin-listen", "unix:" + socket}},
		{"plain, with few descriptors", 1024, []string{"--admin-listen", "127.0.0.1:0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newStateDir(t)
			s := startFlooded(t, d, tc.descriptors, append(tc.flags, "--listen", "127.0.0.1:0")...)
			outlast(t, d, s, duration, strict)
			s.stop(t)
		})
	}
}

// shortDir is a directory whose path is short enough for a socket.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "kms")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// outlast floods a server and asks it meanwhile and after.
func outlast(t *testing.T, d *stateDir, s *floodedServer, duration time.Duration, strict bool) {
	var made struct {
		AccessKey struct{ AccessKeyId, SecretAccessKey string }
	}
	d.must(t, &made, "iam", "create-access-key")
	key := made.AccessKey
	var created struct{ KeyMetadata struct{ KeyId string } }
	d.must(t, &created, "create-key", "--key-spec", "HMAC_256", "--key-usage", "GENERATE_VERIFY_MAC")
	client := func(keep bool, attempts int) func(context.Context) error {
		c, end := s.sdk(key.AccessKeyId, key.SecretAccessKey, keep, attempts)
		t.Cleanup(end)
		return func(ctx context.Context) error {
			in := &kms.GenerateMacInput{KeyId: &created.KeyMetadata.KeyId, MacAlgorithm: "HMAC_SHA_256", Message: []byte("m")}
			_, err := c.GenerateMac(ctx, in)
			return err
		}
	}
	kept := &genuine{name: "connection that is kept", ask: client(true, 1)}
	clients := []*genuine{kept, {name: "new connection each time", ask: client(false, 3)}, {name: "probe of health", ask: s.probe("/healthz")},
		{name: "probe of readiness", ask: s.probe("/readyz")}, {name: "scrape", ask: s.probe("/metrics")}}
	for _, g := range clients {
		require.NoError(t, g.ask(t.Context()), "%s, before the flood", g.name)
	}
	everything := append([]func(context.Context) error{s.probe("/healthz"), s.probe("/readyz")}, repeat(32, client(false, 1))...)
	require.NoError(t, all(everything), "before the flood")
	f := s.flood(t, key.AccessKeyId)
	over := time.After(duration)
	done := make(chan struct{})
	var asking sync.WaitGroup
	for _, g := range clients {
		asking.Go(func() { g.keepAsking(t, done) })
	}
	watch := time.NewTicker(50 * time.Millisecond)
	defer watch.Stop()
	for waiting := true; waiting || f.api.Load() < manyConnections || f.admin.Load() < manyConnections; {
		select {
		case <-watch.C:
			s.look(t)
		case <-over:
			waiting = false
			close(f.lasted)
		}
	}
	f.stop()
	ended := time.Now()
	var took time.Duration // until everything that is asked at once is answered at the first attempt
	require.Eventually(t, func() bool {
		took = time.Since(ended)
		return all(everything) == nil
	}, patience, time.Millisecond, "full service after the flood")
	close(done)
	asking.Wait()
	s.report(t, f, clients, took)
	require.Zero(t, kept.refused.Load()+kept.unknown.Load(), "who has proved himself is served throughout")
	require.Less(t, s.memory(t), memoryMax(t))
	require.LessOrEqual(t, s.peak, s.descriptors-spare(s.descriptors), "the reserve was not touched")
	if strict {
		require.LessOrEqual(t, took, fullService)
	}
	for _, g := range clients {
		require.Positive(t, g.served.Load(), g.name)
	}
}

// spare is half of what docs/server.md says is left to store, token and log, which have some of it themselves.
func spare(descriptors int) int { return min(256, descriptors/2) / 2 }

func repeat(n int, ask func(context.Context) error) (all []func(context.Context) error) {
	for range n {
		all = append(all, ask)
	}
	return all
}

// all asks everything at once.
func all(asks []func(context.Context) error) error {
	errs := make([]error, len(asks))
	var wg sync.WaitGroup
	for i, ask := range asks {
		wg.Go(func() { errs[i] = ask(context.Background()) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *floodedServer) report(t *testing.T, f *flood, clients []*genuine, took time.Duration) {
	t.Logf("%d descriptors, %d open at most, %.0f MiB at most; attackers opened %d connections to the API and %d to the admin listener; "+
		"full service from %v after the flood",
		s.descriptors, s.peak, float64(s.memory(t))/(1<<20), f.api.Load(), f.admin.Load(), took.Round(time.Millisecond))
	for _, g := range clients {
		t.Logf("%-25s %6d served, %d refused by a limit, %d failed otherwise; slowest %v",
			g.name+":", g.served.Load(), g.refused.Load(), g.unknown.Load(), g.slowest.Round(time.Millisecond))
	}
}
