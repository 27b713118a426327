package test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// TestProbeOfATokenWithoutSessionObjects: doctor tries by keys that it makes in the token, and tells what it tries and what it finds.
// Whatever step it dies at, the next command leaves none of them.
func TestProbeOfATokenWithoutSessionObjects(t *testing.T) {
	tok := softhsm.NewToken(t)
	m := faultp11.New(t, tok.Module)
	tok.Module = m.Path
	d := newStateDirOn(t, tok) // before the rules, whose numbers each process says on standard error
	m.AtStart("on C_GenerateKey,C_GenerateKeyPair fail CKR_ATTRIBUTE_VALUE_INVALID attribute=CKA_TOKEN:00")
	probe := []string{"doctor", "--probe-token-objects", "--yes"}
	succeeds := func(args ...string) (out, told string) {
		r, err := run(d.command(args...))
		require.NoError(t, err)
		require.Zero(t, r.code, "%s", r.stderr)
		return string(r.stdout), string(r.stderr)
	}
	for _, step := range []string{"record-written", "object-made"} {
		d.crash(t, step, probe...)
		left := unfinished(d.allRecords(t))
		require.Len(t, left, 1)
		assert.Equal(t, keystore.Creating, left[0].State)
		_, made := raw(t, d.token, rawJob{}).find(left[0].CKAID.String())
		assert.Equal(t, step == "object-made", made, "there is an object")
		succeeds("list-keys")
		d.assertWhole(t)
	}
	out, told := succeeds(probe...)
	assert.True(t, strings.HasPrefix(out, "HMAC_224: made and used\nHMAC_256: made and used\n"), out)
	assert.Contains(t, out, "\nRSA_4096: made and used\n")
	assert.Contains(t, out, "\nECC_NIST_EDWARDS25519: made and used; signs by ED25519_SHA_512, and not by ED25519_PH_SHA_512\n")
	assert.Contains(t, told, "trying HMAC_256 (2 of 12)\n")
	d.assertWhole(t)
}
