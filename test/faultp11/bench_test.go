package faultp11_test

import (
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// BenchmarkCall measures a call that does next to nothing, with SoftHSM alone and through the module without a rule.
func BenchmarkCall(b *testing.B) {
	tok := softhsm.NewToken(b)
	b.Setenv(softhsm.EnvConfig, tok.ConfigFile)
	for name, path := range map[string]string{"SoftHSM": tok.Module, "module": faultp11.New(b, tok.Module).Path} {
		b.Run(name, func(b *testing.B) {
			ctx := pkcs11.New(path)
			require.NotNil(b, ctx)
			require.NoError(b, ctx.Initialize())
			defer func() { _ = ctx.Finalize() }()
			for b.Loop() {
				_, err := ctx.GetInfo()
				require.NoError(b, err)
			}
		})
	}
}
