package bench

import (
	"context"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"
)

// BenchmarkSign measures Sign beside what a program would write that calls the module itself: SHA-256 in the token for RSA,
// and for the curve in Go, since SoftHSM has no CKM_ECDSA_SHA256.
func BenchmarkSign(b *testing.B) {
	r := setUp(b)
	message := make([]byte, 256)
	cancellable, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, way := range []struct {
		spec      types.KeySpec
		algorithm types.SigningAlgorithmSpec
		mechanism uint
		input     func([]byte) []byte
	}{
		{types.KeySpecRsa2048, types.SigningAlgorithmSpecRsassaPkcs1V15Sha256, pkcs11.CKM_SHA256_RSA_PKCS, func(m []byte) []byte { return m }},
		{types.KeySpecEccNistP256, types.SigningAlgorithmSpecEcdsaSha256, pkcs11.CKM_ECDSA,
			func(m []byte) []byte { d := sha256.Sum256(m); return d[:] }},
	} {
		made, err := r.client.CreateKey(context.Background(), &kms.CreateKeyInput{KeySpec: way.spec, KeyUsage: types.KeyUsageTypeSignVerify})
		require.NoError(b, err)
		id := made.KeyMetadata.KeyId
		object := r.object(b, *id, pkcs11.CKO_PRIVATE_KEY)
		rivals := map[string]rival{
			"miekg": each(func() error { _, err := r.direct.sign(way.mechanism, object, way.input(message)); return err }),
		}
		for _, goroutines := range []int{1, 4} {
			for name, ctx := range map[string]context.Context{"no-deadline": context.Background(), "deadline": cancellable} {
				b.Run(fmt.Sprintf("%s/%d/%s", way.spec, goroutines, name), func(b *testing.B) {
					compare(b, goroutines, func() error {
						_, err := r.client.Sign(ctx, &kms.SignInput{KeyId: id, SigningAlgorithm: way.algorithm, Message: message})
						return err
					}, rivals)
				})
			}
		}
	}
}
