package token_test

import (
	"context"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// What was recalled of a token is what its opening knows, with the times of then: the next process is told the same. No memory makes a gap
// younger, which would be believed for longer with each restart.
func TestWhatIsRecalledStaysAsItWas(t *testing.T) {
	gap := func(h token.Hash, age time.Duration) token.LearntGap {
		return token.LearntGap{Kind: token.Kind{Hash: h}, What: "use", Func: "C_SignInit", RV: pkcs11.CKR_MECHANISM_INVALID,
			At: time.Now().Add(-age)}
	}
	want := token.Learnt{
		Since:         time.Now().Add(-24 * time.Hour),
		NoSessionKeys: true,
		Made:          []token.Kind{{Hash: token.SHA256}},
		Gaps:          []token.LearntGap{gap(token.SHA224, time.Minute), gap(token.SHA384, time.Hour)},
	}
	tok, f := openFaulty(t, func(cfg *token.Config) {
		cfg.Recall = func(context.Context, token.Info) token.Learnt { return want }
	})
	require.Equal(t, want, tok.Learnt())
	require.Zero(t, f.count("C_GenerateKey"), "nothing is asked of it that it is known not to do")
	var e *token.GapError
	require.ErrorAs(t, tok.HashGap(token.SHA224), &e)
	require.NoError(t, tok.HashGap(token.SHA384), "so long ago that it is tried again")

	key, err := tok.GenerateHMACKey(t.Context(), token.SHA384, randomBytes(t, 16), "test key")
	require.NoError(t, err)
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	want.Made, want.Gaps = append(want.Made, token.Kind{Hash: token.SHA384}), want.Gaps[:1]
	require.Equal(t, want, tok.Learnt())
}

// Where keys end with their session each opening tries the kinds of keys that can be tried, and a restart is what has the others tried
// again: what was found missing is neither told to the next process nor believed of the one before.
func TestGapsOfKindsAreNotRemembered(t *testing.T) {
	missing := token.LearntGap{Kind: token.Kind{Spec: pubkey.P256}, What: "generation", Func: "C_GenerateKeyPair",
		RV: pkcs11.CKR_MECHANISM_INVALID, At: time.Now()}
	tok, f := openFaulty(t, func(cfg *token.Config) {
		cfg.Recall = func(context.Context, token.Info) token.Learnt {
			return token.Learnt{Since: time.Now(), Gaps: []token.LearntGap{missing}}
		}
	})
	require.NoError(t, tok.PairGap(pubkey.P256))
	f.on("C_GenerateKeyPair", func() error { return pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID) })
	_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P256, randomBytes(t, 16), "label")
	require.Error(t, err)
	require.Error(t, tok.PairGap(pubkey.P256))
	for _, gap := range tok.Learnt().Gaps {
		require.NotEqual(t, missing.Kind, gap.Kind)
	}
}
