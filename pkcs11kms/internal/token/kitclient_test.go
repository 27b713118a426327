package token_test

import (
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// crowded counts the calls that are inside a module at once.
type crowded struct {
	token.Module
	inside, most *atomic.Int64
}

func (c crowded) enter() {
	n := c.inside.Add(1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
	time.Sleep(100 * time.Microsecond) // for others to come in, if they can
}

func (c crowded) SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle) error {
	c.enter()
	defer c.inside.Add(-1)
	return c.Module.SignInit(s, m, key)
}

func (c crowded) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	c.enter()
	defer c.inside.Add(-1)
	return c.Module.Sign(s, message)
}

// TestOneCallAtATime: p11-kit's client leaves calls inside for good when its server is killed while several are; all others get as many
// calls as there are sessions.
func TestOneCallAtATime(t *testing.T) {
	for _, name := range []string{"p11-kit-client.so", "p11-kit-client-0.25.so", "libsofthsm2.so"} {
		t.Run(name, func(t *testing.T) {
			cfg, tok := newConfig(t)
			module, err := os.ReadFile(tok.Module)
			require.NoError(t, err)
			tok.Module = filepath.Join(t.TempDir(), name)
			require.NoError(t, os.WriteFile(tok.Module, module, 0o600))
			cfg.URI = tok.URI(tok.PINFile)
			inside, most := &atomic.Int64{}, &atomic.Int64{}
			cfg.SetWrap(func(m token.Module) token.Module { return crowded{m, inside, most} })
			var all sync.WaitGroup
			for range 2 { // Tokens of one module have one connection between them
				opened := open(t, cfg)
				key := newKey(t, opened)
				for range 4 {
					all.Go(func() {
						for range 50 {
							_, err := opened.MAC(t.Context(), key, []byte("message"))
							require.NoError(t, err)
						}
					})
				}
			}
			all.Wait()
			if name == "libsofthsm2.so" {
				require.Greater(t, most.Load(), int64(1))
			} else {
				require.Equal(t, int64(1), most.Load())
			}
		})
	}
}

// It is so with every function: none comes in while a call is inside.
func TestEveryCallWaitsForTheOneInside(t *testing.T) {
	for i := range reflect.TypeFor[token.Module]().NumMethod() {
		name := reflect.TypeFor[token.Module]().Method(i).Name
		t.Run(name, func(t *testing.T) {
			through, leave := token.OneAtATime(nil)
			call := reflect.ValueOf(through).MethodByName(name)
			var arguments []reflect.Value
			for i := range call.Type().NumIn() {
				if !call.Type().IsVariadic() { // else it is C_Initialize, whose options may be left out
					arguments = append(arguments, reflect.Zero(call.Type().In(i)))
				}
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				defer func() { _ = recover() }() // there is no module behind
				call.Call(arguments)
			}()
			came := func() bool {
				select {
				case <-ended:
					return true
				default:
					return false
				}
			}
			waits := func() bool { return inStack("token.serialized.alone") }
			assert.Eventually(t, func() bool { return came() || waits() }, patience, tick)
			assert.False(t, came(), "it did not wait")
			leave()
			<-ended
		})
	}
}

// TestConnectionsThatEndAtOnce: what accepts connections and ends them, as a tunnel does whose other end is down, costs a process nothing
// that stays. p11-kit's client keeps the socket of each C_Initialize that fails.
func TestConnectionsThatEndAtOnce(t *testing.T) {
	client := find(t, "p11-kit", "p11-kit-client.so", "/usr/lib/*/pkcs11/p11-kit-client.so")
	dir, err := os.MkdirTemp("", "kit") // not t.TempDir: a path of a socket has at most 107 bytes
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	listener, err := net.Listen("unix", filepath.Join(dir, "socket"))
	require.NoError(t, err)
	var server sync.WaitGroup
	server.Go(func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		server.Wait()
	})
	t.Setenv("P11_KIT_SERVER_ADDRESS", "unix:path="+filepath.Join(dir, "socket"))

	cfg, tok := newConfig(t)
	tok.Module = client
	cfg.URI = tok.URI(tok.PINFile)
	refused := func() {
		t.Helper()
		_, err := token.Open(t.Context(), cfg)
		requireRV(t, err, "C_Initialize", pkcs11.CKR_DEVICE_ERROR)
	}
	refused()
	before := sockets(t)
	for range 20 {
		refused()
	}
	require.LessOrEqual(t, sockets(t), before)
}

// sockets counts those of this process.
func sockets(t *testing.T) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	require.NoError(t, err)
	for _, name := range all {
		if to, err := os.Readlink(name); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}
