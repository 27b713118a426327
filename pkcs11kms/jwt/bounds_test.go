package jwt

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What the package promises stands here in its words: a test that takes its expectation from the constant holds nothing.
func TestBoundsAreThoseOfTheDocuments(t *testing.T) {
	require.Equal(t, 65536, MaxTokenBytes)
	require.Equal(t, 4096, maxMessage, "Message of GenerateMac, VerifyMac, Sign and Verify")
	require.Equal(t, 10*time.Second, reloadPause, "VerifierConfig.MaxAge: for an unknown kid at most every ten seconds")
	require.Equal(t, 1<<20, maxKeySet, "ParseKeySet: more than a MiB")
	require.Equal(t, 1000, maxKeysOfASet, "ParseKeySet: more than 1,000 keys")
	require.Equal(t, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix(), int64(lastSecond))

	client := struct{ Client }{}
	signer, err := NewSigner(SignerConfig{Client: client, KeyID: "alias/tokens"})
	require.NoError(t, err)
	require.Equal(t, time.Minute, signer.cfg.MaxAge)
	verifier, err := NewVerifier(VerifierConfig{Client: client, KeyIDs: []string{"alias/tokens"}})
	require.NoError(t, err)
	require.Equal(t, 5*time.Minute, verifier.keys.(*ring).maxAge)
}
