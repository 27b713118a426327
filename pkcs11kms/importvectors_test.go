package pkcs11kms

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// TestImportRFC4231 imports the keys of RFC 4231 and compares the published MACs, by the equivalences of HMAC: a key that is too short for
// AWS KMS is filled with zeros, one that is too long is hashed.
func TestImportRFC4231(t *testing.T) {
	text, err := os.ReadFile("internal/token/testdata/rfc4231.json")
	require.NoError(t, err)
	var all struct {
		Cases []struct {
			Case      int
			Key, Data string
			Tags      map[string]string
		}
	}
	require.NoError(t, json.Unmarshal(text, &all))
	c := newClient(t)
	ran := 0
	for _, vector := range all.Cases {
		key, err := hex.DecodeString(vector.Key)
		require.NoError(t, err)
		data, err := hex.DecodeString(vector.Data)
		require.NoError(t, err)
		for i := range keyring.MACSpecs {
			spec := &keyring.MACSpecs[i]
			material := append(key, make([]byte, max(0, spec.Hash.KeyBytes()-len(key)))...)
			if len(material) > 128 {
				h := macHashes[spec.Name]()
				h.Write(key)
				material = h.Sum(nil)
			}
			made := mustCreateExternal(t, c, spec.Name)
			require.NoError(t, importMaterial(t, c, made.KeyId, envelopes[ran%len(envelopes)], material, time.Time{}))
			out, err := c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: made.KeyId, MacAlgorithm: spec.Algorithm, Message: data})
			require.NoError(t, err)
			want := vector.Tags[spec.Hash.String()]
			require.NotEmpty(t, want)
			require.Equal(t, want, hex.EncodeToString(out.Mac)[:len(want)], "case %d, %s", vector.Case, spec.Name)
			ran++
		}
	}
	t.Logf("%d MACs of RFC 4231", ran)
	require.Equal(t, 28, ran)
}
