package test

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
)

// macSpec is a key spec and what other PKCS#11 clients call it.
type macSpec struct {
	name      types.KeySpec
	algorithm types.MacAlgorithmSpec
	mechanism uint
	opensc    string
	bytes     uint
}

var specs = []macSpec{
	{types.KeySpecHmac224, types.MacAlgorithmSpecHmacSha224, pkcs11.CKM_SHA224_HMAC, "SHA224-HMAC", 28},
	{types.KeySpecHmac256, types.MacAlgorithmSpecHmacSha256, pkcs11.CKM_SHA256_HMAC, "SHA256-HMAC", 32},
	{types.KeySpecHmac384, types.MacAlgorithmSpecHmacSha384, pkcs11.CKM_SHA384_HMAC, "SHA384-HMAC", 48},
	{types.KeySpecHmac512, types.MacAlgorithmSpecHmacSha512, pkcs11.CKM_SHA512_HMAC, "SHA512-HMAC", 64},
}

// messages are around the block sizes of the hashes, and the smallest and the largest that GenerateMac takes.
var messages = func() (all [][]byte) {
	for _, size := range []int{1, 55, 56, 64, 111, 112, 128, 129, 4095, 4096} {
		m := make([]byte, size)
		for i := range m {
			m[i] = byte(i*7 + size)
		}
		all = append(all, m)
	}
	return all
}()

// issued is a key made by GenerateMac's side, its CKA_ID, and its MAC of each message.
type issued struct {
	macSpec
	keyID string
	ckaID string // hexadecimal
	macs  [][]byte
}

// issue makes a key of each spec through the library and MACs with it, then closes the library: what other clients find is
// what stands in the token.
func issue(t *testing.T, d *stateDir) (keys []issued) {
	t.Helper()
	c, err := statedir.New(t.Context(), d.config(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	for _, s := range specs {
		out, err := c.CreateKey(t.Context(), createInput(s.name))
		require.NoError(t, err)
		k := issued{macSpec: s, keyID: aws.ToString(out.KeyMetadata.KeyId)}
		for _, m := range messages {
			mac, err := c.GenerateMac(t.Context(), macInput(k.keyID, s.algorithm, m))
			require.NoError(t, err)
			require.Len(t, mac.Mac, int(s.bytes))
			k.macs = append(k.macs, mac.Mac)
		}
		keys = append(keys, k)
	}
	for _, record := range d.records(t) {
		i := slices.IndexFunc(keys, func(k issued) bool { return k.keyID == record.ID })
		require.NotEqual(t, -1, i)
		keys[i].ckaID = record.CKAID.String()
	}
	return keys
}

// opensc prepares pkcs11-tool, logged in to a token.
func opensc(t *testing.T, tok softhsm.TestToken, args ...string) *exec.Cmd {
	t.Helper()
	return openscAt(t, tok.Token, tok.PIN(), args...)
}

// openscAt is opensc for whatever token.
func openscAt(t *testing.T, tok softhsm.Token, pin string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(tool(t, "opensc", "pkcs11-tool"), append([]string{
		"--module", tok.Module, "--token-label", tok.Label, "--login", "--pin", "env:TEST_PIN"}, args...)...)
	cmd.Env = append(append(os.Environ(), tok.Env()...), "TEST_PIN="+pin)
	return cmd
}

func TestOpenSCMakesTheSameMACs(t *testing.T) {
	d := newStateDir(t)
	keys := issue(t, d)
	dir := t.TempDir()
	for _, k := range keys {
		for i, m := range messages {
			in, out := filepath.Join(dir, "message"), filepath.Join(dir, fmt.Sprintf("%s-%d", k.name, i))
			require.NoError(t, os.WriteFile(in, m, 0o600))
			cmd := opensc(t, d.token, "--sign", "--mechanism", k.opensc, "--id", k.ckaID, "--input-file", in, "--output-file", out)
			printed, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", printed)
			mac, err := os.ReadFile(out)
			require.NoError(t, err)
			assert.True(t, slices.Equal(k.macs[i], mac), "%s, message of %d bytes: pkcs11-tool makes another MAC", k.name, len(m))
		}
	}
}

func TestCrypto11MakesTheSameMACs(t *testing.T) {
	d := newStateDir(t)
	keys := issue(t, d)
	var job crypto11Job
	for _, k := range keys {
		id, err := hex.DecodeString(k.ckaID)
		require.NoError(t, err)
		for _, m := range messages {
			job.Sign = append(job.Sign, crypto11Sign{ID: id, Mechanism: k.mechanism, Message: m})
		}
	}
	macs := viaCrypto11(t, d.token, job)
	require.Len(t, macs, len(specs)*len(messages))
	for _, k := range keys {
		for i, m := range messages {
			assert.True(t, slices.Equal(k.macs[i], macs[0]), "%s, message of %d bytes: crypto11 makes another MAC", k.name, len(m))
			macs = macs[1:]
		}
	}
}

// TestObjectsAsAnotherClientReadsThem: the whole of the template, read by a client that shares no code with ours.
func TestObjectsAsAnotherClientReadsThem(t *testing.T) {
	d := newStateDir(t)
	keys := issue(t, d)
	found := raw(t, d.token, rawJob{})
	require.Len(t, found.Objects, len(keys)+1, "the token holds the keys, the region's binding key and nothing else")
	for _, k := range keys {
		o, ok := found.find(k.ckaID)
		require.True(t, ok, "no object has the CKA_ID of the %s key", k.name)
		require.NotEmpty(t, o.Fingerprint, "it signs")
		assert.Len(t, k.ckaID, 32, "16 bytes")
		assert.Equal(t, rawObject{
			Class: pkcs11.CKO_SECRET_KEY, KeyType: pkcs11.CKK_GENERIC_SECRET, ValueLen: k.bytes, Label: k.keyID, ID: k.ckaID,
			Token: true, Private: true, Local: true, Sensitive: true, Always: true, Never: true, Sign: true, Verify: true,
			Mechanisms: []uint{k.mechanism}, Fingerprint: o.Fingerprint,
		}, o)
	}
}

// TestPKCS11ToolListsTheKeys: an operator who lists the token sees which object is which key.
func TestPKCS11ToolListsTheKeys(t *testing.T) {
	d := newStateDir(t)
	keys := issue(t, d)
	listed, err := opensc(t, d.token, "--list-objects", "--type", "secrkey").CombinedOutput()
	require.NoError(t, err, "%s", listed)
	for _, k := range keys {
		assert.Regexp(t, `label: +`+k.keyID+`\n +ID: +`+k.ckaID, string(listed))
	}
	assert.Regexp(t, `Access: +sensitive, always sensitive, never extractable, local`, string(listed))
	assert.NotRegexp(t, `Access:.*[^r] extractable`, string(listed))
	out := filepath.Join(t.TempDir(), "value")
	_, err = opensc(t, d.token, "--read-object", "--type", "secrkey", "--id", keys[0].ckaID, "--output-file", out).CombinedOutput()
	assert.Error(t, err, "pkcs11-tool read the value of a key")
	value, _ := os.ReadFile(out)
	assert.Empty(t, value)
}

// TestNoClientGetsTheKeyOut: a client that has the PIN, and so every right the token can give.
func TestNoClientGetsTheKeyOut(t *testing.T) {
	d := newStateDir(t)
	keys := issue(t, d)
	var job rawJob
	for _, k := range keys {
		job.Attack = append(job.Attack, k.ckaID)
	}
	attacks := raw(t, d.token, job).Attacks
	for _, k := range keys {
		a := attacks[k.ckaID]
		assert.EqualValues(t, pkcs11.CKR_ATTRIBUTE_SENSITIVE, a.ReadValue, "%s: reading CKA_VALUE", k.name)
		assert.EqualValues(t, pkcs11.CKR_KEY_UNEXTRACTABLE, a.Wrap, "%s: C_WrapKey", k.name)
		assert.EqualValues(t, pkcs11.CKR_ATTRIBUTE_READ_ONLY, a.Extractable, "%s: making it extractable", k.name)
		assert.EqualValues(t, pkcs11.CKR_ATTRIBUTE_READ_ONLY, a.Insensitive, "%s: making it not sensitive", k.name)
		for _, m := range hmacMechanisms {
			if m == k.mechanism {
				assert.EqualValues(t, pkcs11.CKR_OK, a.Sign[m], "%s with its own mechanism", k.name)
			} else {
				assert.EqualValues(t, pkcs11.CKR_MECHANISM_INVALID, a.Sign[m], "%s with mechanism %#x", k.name, m)
			}
		}
	}
	// The attempts themselves work: they succeed on a key that lacks the protection.
	const open = "0badc0de"
	answer := raw(t, d.token,
		rawJob{Make: []rawObject{{Class: pkcs11.CKO_SECRET_KEY, Label: "unprotected", ID: open, Extractable: true}}, Attack: []string{open}})
	assert.EqualValues(t, pkcs11.CKR_OK, answer.Attacks[open].Wrap)
	assert.EqualValues(t, pkcs11.CKR_OK, answer.Attacks[open].Sign[pkcs11.CKM_SHA224_HMAC])
}
