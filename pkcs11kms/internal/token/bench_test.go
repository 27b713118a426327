package token_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/require"
)

// BenchmarkMAC measures a MAC with a token key beside the same work by direct calls of miekg/pkcs11 in the same run. The
// direct calls have the handle at hand and take their session from a channel.
func BenchmarkMAC(b *testing.B) {
	cfg, provisioned := newConfig(b)
	tok := open(b, cfg)
	key, err := tok.GenerateHMACKey(context.Background(), token.SHA256, randomBytes(b, 16), "bench")
	require.NoError(b, err)
	ending, cancel := context.WithCancel(context.Background())
	defer cancel()
	direct := newDirect(b, provisioned.Module, provisioned.Label, key.ID())
	for _, size := range []int{32, 4096} {
		message := randomBytes(b, size)
		for _, goroutines := range []int{1, 4, 16} {
			name := fmt.Sprintf("%dB/%d", size, goroutines)
			b.Run("direct/"+name, func(b *testing.B) { direct.run(b, goroutines, message) })
			mac := func(ctx context.Context) func(*testing.B) {
				return func(b *testing.B) {
					spread(b, goroutines, func() error {
						_, err := tok.MAC(ctx, key, message)
						return err
					})
				}
			}
			b.Run("endless/"+name, mac(context.Background()))
			b.Run("deadline/"+name, mac(ending))
		}
	}
}

// spread runs b.N calls on so many goroutines.
func spread(b *testing.B, goroutines int, call func() error) {
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	results := make(chan error, goroutines)
	for range goroutines {
		go func() {
			for left.Add(-1) >= 0 {
				if err := call(); err != nil {
					results <- err
					return
				}
			}
			results <- nil
		}()
	}
	for range goroutines {
		if err := <-results; err != nil {
			b.Error(err)
		}
	}
}

// direct calls the module with nothing of ours between, in the login of the open token.
type direct struct {
	c        *pkcs11.Ctx
	sessions chan pkcs11.SessionHandle
	key      pkcs11.ObjectHandle
}

func newDirect(b *testing.B, module, label string, id []byte) *direct {
	d := &direct{c: pkcs11.New(module), sessions: make(chan pkcs11.SessionHandle, 16)}
	slot := slotOf(b, d.c, label)
	for range 16 {
		s, err := d.c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		require.NoError(b, err)
		b.Cleanup(func() { _ = d.c.CloseSession(s) })
		d.sessions <- s
	}
	s := <-d.sessions
	d.sessions <- s
	require.NoError(b, d.c.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, id)}))
	found, _, err := d.c.FindObjects(s, 1)
	require.NoError(b, err)
	require.Len(b, found, 1)
	require.NoError(b, d.c.FindObjectsFinal(s))
	d.key = found[0]
	return d
}

func (d *direct) run(b *testing.B, goroutines int, message []byte) {
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_SHA256_HMAC, nil)}
	spread(b, goroutines, func() error {
		s := <-d.sessions
		defer func() { d.sessions <- s }()
		if err := d.c.SignInit(s, mechanism, d.key); err != nil {
			return err
		}
		_, err := d.c.Sign(s, message)
		return err
	})
}

// slotOf finds a token by its label through the bare module.
func slotOf(t testing.TB, c *pkcs11.Ctx, label string) uint {
	t.Helper()
	slots, err := c.GetSlotList(true)
	require.NoError(t, err)
	for _, slot := range slots {
		info, err := c.GetTokenInfo(slot)
		require.NoError(t, err)
		if info.Label == label {
			return slot
		}
	}
	require.Failf(t, "no such token", "label %q", label)
	return 0
}

// BenchmarkGenerateHMACKey measures making a key in a token that has others, on as many goroutines.
func BenchmarkGenerateHMACKey(b *testing.B) {
	for _, others := range []int{0, 1000} {
		tok := newToken(b)
		for range others {
			_, err := tok.GenerateHMACKey(context.Background(), token.SHA256, randomBytes(b, 16), "other")
			require.NoError(b, err)
		}
		for _, goroutines := range []int{1, 4} {
			b.Run(fmt.Sprintf("%d/%d", others, goroutines), func(b *testing.B) {
				spread(b, goroutines, func() error {
					_, err := tok.GenerateHMACKey(context.Background(), token.SHA256, randomBytes(b, 16), "bench")
					return err
				})
			})
		}
	}
}
