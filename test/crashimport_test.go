package test

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// TestImportKilledAtEachStep: whatever step an import or a deletion of key material dies at, the next command leaves no material or a whole
// one, and what is not whole is never used.
func TestImportKilledAtEachStep(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key.bin")
	material := make([]byte, 32)
	rand.Read(material)
	require.NoError(t, os.WriteFile(file, material, 0o600))
	steps := []struct {
		name    string
		deletes bool
		whole   bool // the material is there in the end
	}{
		{"import-begun", false, false}, {"import-object-made", false, false}, {"import-flipped", false, true},
		{"material-deleting", true, false}, {"material-destroyed", true, false},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			d := newStateDir(t)
			var made createdAnswer
			d.must(t, &made, "create-key", "--origin", "EXTERNAL", "--key-spec", "HMAC_256", "--key-usage", "GENERATE_VERIFY_MAC")
			id := made.KeyMetadata.KeyId
			imports := []string{"import-key-material", "--key-id", id, "--plaintext-file", file, "--wrapping-key-spec", "RSA_2048",
				"--wrapping-algorithm", "RSAES_OAEP_SHA_1", "--expiration-model", "KEY_MATERIAL_DOES_NOT_EXPIRE"}
			args := imports
			if step.deletes {
				d.must(t, nil, imports...)
				args = []string{"delete-imported-key-material", "--key-id", id}
			}
			r, err := run(d.crashing(t, step.name, args...))
			require.NoError(t, err)
			require.True(t, r.killed, "it did not die: %s", r.stderr)
			require.Empty(t, r.stdout)

			d.must(t, nil, "list-keys")
			keys := d.records(t)
			left := keys[slices.IndexFunc(keys, func(k keystore.Key) bool { return k.ID == id })]
			assert.Empty(t, left.Instance)
			assert.Equal(t, step.whole, left.Import.Held)
			object, found := raw(t, d.token, rawJob{}).find(left.CKAID.String())
			assert.Equal(t, step.whole, found, "there is an object")
			if step.whole {
				assert.True(t, object.Sensitive && !object.Extractable && object.Sign && !object.Local)
			}
			d.must(t, nil, imports...)
			d.assertUsable(t, id)
		})
	}
}
