package bench

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/bench/cloop"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// BenchmarkSlowToken measures a token that takes 1 ms for a signature, as one over a network does, with as many sessions as the loop in C
// has threads. Both go through one module, which injects the delay. Go has as many processors as a server gives it for such a token, and in
// the second case those of the machine, as in a program that knows nothing of this.
func BenchmarkSlowToken(b *testing.B) {
	tok := softhsm.NewToken(b)
	module := faultp11.New(b, tok.Module)
	tok.Module = module.Path
	b.Setenv(softhsm.EnvConfig, tok.ConfigFile)
	r := rigOn(b, tok, filepath.Join(b.TempDir(), "slow"), cloop.MostThreads)
	b.Cleanup(func() { require.NoError(b, r.bridge.Close()) })
	module.Do("on C_Sign delay 1ms")
	cancellable, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	for name, ctx := range map[string]context.Context{"no-deadline": context.Background(), "deadline": cancellable} {
		measure := func(b *testing.B) {
			compare(b, cloop.MostThreads, func() error { return r.mac(ctx, r.client) }, map[string]rival{"C": r.inC(message32)})
		}
		b.Run("GenerateMac/64/"+name, func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4 * runtime.NumCPU()))
			measure(b)
		})
		b.Run("GenerateMac/64/"+name+"/few-processors", measure)
	}
}
