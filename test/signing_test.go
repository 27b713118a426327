package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// signer is a signing key of a state directory, with its public key in a file for openssl.
type signer struct {
	*types.KeyMetadata
	ckaID string // hexadecimal
	pem   string
}

// newSigners makes a key of each spec.
func newSigners(t *testing.T, d *stateDir, c *pkcs11kms.Client, specs ...types.KeySpec) (signers []signer) {
	t.Helper()
	for _, spec := range specs {
		out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: types.KeyUsageTypeSignVerify})
		require.NoError(t, err)
		signers = append(signers, newSigner(t, d, c, out.KeyMetadata))
	}
	return signers
}

// newSigner is the signer of a key that is there.
func newSigner(t *testing.T, d *stateDir, c *pkcs11kms.Client, m *types.KeyMetadata) signer {
	t.Helper()
	s := signer{KeyMetadata: m, ckaID: d.ckaID(t, *m.KeyId), pem: filepath.Join(t.TempDir(), "public.pem")}
	public, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: s.KeyId})
	require.NoError(t, err)
	cmd := exec.Command(tool(t, "openssl", "openssl"), "pkey", "-pubin", "-inform", "DER", "-out", s.pem)
	cmd.Stdin = strings.NewReader(string(public.PublicKey))
	printed, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", printed)
	return s
}

// inFile writes data to a new file.
func inFile(t *testing.T, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.WriteFile(name, data, 0o600))
	return name
}

// dgst is how openssl names an algorithm of the API: RSASSA_PSS_SHA_256 and so on.
func dgst(algorithm types.SigningAlgorithmSpec) []string {
	name := string(algorithm)
	hash := "-sha" + name[len(name)-3:]
	if strings.HasPrefix(name, "RSASSA_PSS") {
		return []string{hash, "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"}
	}
	return []string{hash}
}

// opensslVerifies asks openssl whether a signature is that of the message.
func (s signer) opensslVerifies(t *testing.T, algorithm types.SigningAlgorithmSpec, message, signature []byte) bool {
	t.Helper()
	if algorithm == types.SigningAlgorithmSpecEd25519Sha512 {
		printed, err := exec.Command(tool(t, "openssl", "openssl"), "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", s.pem,
			"-sigfile", inFile(t, signature), "-in", inFile(t, message)).CombinedOutput()
		require.Equal(t, err == nil, strings.Contains(string(printed), "Signature Verified Successfully"), "%s", printed)
		return err == nil
	}
	args := append([]string{"dgst"}, dgst(algorithm)...)
	args = append(args, "-verify", s.pem, "-signature", inFile(t, signature), inFile(t, message))
	printed, err := exec.Command(tool(t, "openssl", "openssl"), args...).CombinedOutput()
	require.Equal(t, err == nil, strings.Contains(string(printed), "Verified OK"), "%s", printed)
	return err == nil
}

// requireSigns holds that openssl verifies what the key signs by an algorithm: of the message, and of its digest where there is one.
func (s signer) requireSigns(t *testing.T, c *pkcs11kms.Client, algorithm types.SigningAlgorithmSpec, message []byte) {
	t.Helper()
	out, err := c.Sign(t.Context(), &kms.SignInput{KeyId: s.KeyId, Message: message, SigningAlgorithm: algorithm})
	require.NoError(t, err)
	assert.True(t, s.opensslVerifies(t, algorithm, message, out.Signature), "%s %s", s.KeySpec, algorithm)
	assert.False(t, s.opensslVerifies(t, algorithm, message[1:], out.Signature), "%s %s", s.KeySpec, algorithm)
	if algorithm == types.SigningAlgorithmSpecEd25519Sha512 {
		return // signs no digests
	}
	digest, err := exec.Command(tool(t, "openssl", "openssl"), "dgst", dgst(algorithm)[0], "-binary", inFile(t, message)).Output()
	require.NoError(t, err)
	out, err = c.Sign(t.Context(),
		&kms.SignInput{KeyId: s.KeyId, Message: digest, MessageType: types.MessageTypeDigest, SigningAlgorithm: algorithm})
	require.NoError(t, err)
	assert.True(t, s.opensslVerifies(t, algorithm, message, out.Signature), "%s %s of a digest", s.KeySpec, algorithm)
}

var signingSpecs = []types.KeySpec{types.KeySpecRsa2048, types.KeySpecRsa3072, types.KeySpecRsa4096, types.KeySpecEccNistP256,
	types.KeySpecEccNistP384, types.KeySpecEccNistP521, types.KeySpecEccSecgP256k1, types.KeySpecEccNistEdwards25519}

// TestOpenSSLVerifiesSignatures: every algorithm of every spec, of the message and of its digest.
func TestOpenSSLVerifiesSignatures(t *testing.T) {
	long(t)
	d := newStateDir(t)
	c, err := statedir.New(t.Context(), d.config(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	message := messages[len(messages)-1]
	tried := 0
	for _, s := range newSigners(t, d, c, signingSpecs...) {
		for _, algorithm := range s.SigningAlgorithms {
			s.requireSigns(t, c, algorithm, message)
			tried++
		}
	}
	assert.Equal(t, 3*6+5, tried)
}

// TestOpenSCSignsAsWeVerify: what another PKCS#11 client signs with the same private key is valid here.
func TestOpenSCSignsAsWeVerify(t *testing.T) {
	d := newStateDir(t)
	c, err := statedir.New(t.Context(), d.config(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	for _, s := range newSigners(t, d, c, types.KeySpecRsa2048, types.KeySpecEccNistP384) {
		algorithm, args := types.SigningAlgorithmSpecRsassaPkcs1V15Sha512, []string{"--mechanism", "SHA512-RSA-PKCS"}
		input := []byte("a message")
		if s.KeySpec == types.KeySpecEccNistP384 {
			algorithm, args = types.SigningAlgorithmSpecEcdsaSha384, []string{"--mechanism", "ECDSA", "--signature-format", "openssl"}
			input, err = exec.Command(tool(t, "openssl", "openssl"), "dgst", "-sha384", "-binary", inFile(t, input)).Output()
			require.NoError(t, err)
		}
		signed := filepath.Join(t.TempDir(), "signature")
		args = append(args, "--sign", "--id", s.ckaID, "--input-file", inFile(t, input), "--output-file", signed)
		printed, err := opensc(t, d.token, args...).CombinedOutput()
		require.NoError(t, err, "%s", printed)
		signature, err := os.ReadFile(signed)
		require.NoError(t, err)
		_, err = c.Verify(t.Context(),
			&kms.VerifyInput{KeyId: s.KeyId, Message: []byte("a message"), Signature: signature, SigningAlgorithm: algorithm})
		assert.NoError(t, err, s.KeySpec)
		signature[len(signature)-1] ^= 1
		_, err = c.Verify(t.Context(),
			&kms.VerifyInput{KeyId: s.KeyId, Message: []byte("a message"), Signature: signature, SigningAlgorithm: algorithm})
		var invalid *types.KMSInvalidSignatureException
		assert.ErrorAs(t, err, &invalid)
	}
}

// TestPKCS11ToolSeesThePairs: an operator sees which objects are which key, that the private one signs and does nothing
// else, and that the public one is that of GetPublicKey.
func TestPKCS11ToolSeesThePairs(t *testing.T) {
	d := newStateDir(t)
	c, err := statedir.New(t.Context(), d.config(t))
	require.NoError(t, err)
	signers := newSigners(t, d, c, types.KeySpecRsa2048, types.KeySpecEccNistP256)
	for _, s := range signers {
		public, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: s.KeyId})
		require.NoError(t, err)
		out := filepath.Join(t.TempDir(), "public")
		printed, err := opensc(t, d.token, "--read-object", "--type", "pubkey", "--id", s.ckaID, "--output-file", out).CombinedOutput()
		require.NoError(t, err, "%s", printed)
		theirs, err := os.ReadFile(out)
		require.NoError(t, err)
		assert.Equal(t, public.PublicKey, theirs, s.KeySpec)
	}
	require.NoError(t, c.Close())
	listed, err := opensc(t, d.token, "--list-objects", "--type", "privkey").CombinedOutput()
	require.NoError(t, err, "%s", listed)
	for _, s := range signers {
		assert.Regexp(t,
			`label: +`+aws.ToString(s.KeyId)+`\n +ID: +`+s.ckaID+
				`\n +Usage: +sign\n +Access: +sensitive, always sensitive, never extractable, local\n +Allowed mechanisms: (RSA|ECDSA)[^\n]*\n`,
			string(listed))
	}
}

// TestDoctorSeesAnEditedPublicKey: whoever writes another public key into the store, to have signatures of his own verify,
// is found out, also when he has taken the token's public key away.
func TestDoctorSeesAnEditedPublicKey(t *testing.T) {
	d := newUnsealed(t)
	c, err := statedir.New(t.Context(), d.config(t))
	require.NoError(t, err)
	signers := newSigners(t, d, c, types.KeySpecEccNistEdwards25519, types.KeySpecEccNistEdwards25519)
	require.NoError(t, c.Close())
	for _, s := range signers {
		printed, err := opensc(t, d.token, "--delete-object", "--type", "pubkey", "--id", s.ckaID).CombinedOutput()
		require.NoError(t, err, "%s", printed)
	}
	d.doctor(t) // nothing needs the token's public key

	store, err := sqlite.Open(t.Context(), d.config(t).StorePath, sqlite.Options{})
	require.NoError(t, err)
	var records []keystore.Key
	var versions []uint64
	for _, s := range signers {
		rec, err := store.Get(t.Context(), keystore.KeyRef(d.config(t).DefaultRegion, *s.AWSAccountId, *s.KeyId))
		require.NoError(t, err)
		rec.Seal = nil
		record, err := keystore.DecodeKey(rec)
		require.NoError(t, err)
		records, versions = append(records, record), append(versions, rec.Version)
	}
	records[0].PublicKey = records[1].PublicKey
	_, err = store.Commit(t.Context(), records[0].Put(versions[0]))
	require.NoError(t, err)
	require.NoError(t, store.Close())
	cfg := d.config(t)
	report := doctor.Examine(t.Context(), cfg.Config, cfg.StorePath, cfg.OpenStore)
	assert.False(t, report.OK())
	for _, check := range report.Checks {
		edited := check.Subject == records[0].ID
		assert.Equal(t, edited, check.Status != doctor.StatusOK, "%s: %s", check.Subject, check.Text)
		if edited {
			assert.Contains(t, check.Text, "not valid by the record's public key")
		}
	}
}

// TestNoClientGetsThePrivateKeyOut: a client that has the PIN, and so every right the token can give.
func TestNoClientGetsThePrivateKeyOut(t *testing.T) {
	d := newStateDir(t)
	c, err := statedir.New(t.Context(), d.config(t))
	require.NoError(t, err)
	signers := newSigners(t, d, c, types.KeySpecRsa2048, types.KeySpecEccNistP256, types.KeySpecEccNistEdwards25519)
	require.NoError(t, c.Close())
	for _, s := range signers {
		a := raw(t, d.token, rawJob{Attack: []string{s.ckaID}}).Attacks[s.ckaID]
		if s.KeySpec == types.KeySpecRsa2048 {
			require.Len(t, a.ReadParts, len(privateParts))
			for part, answer := range a.ReadParts {
				assert.EqualValues(t, pkcs11.CKR_ATTRIBUTE_SENSITIVE, answer, "reading %#x", part)
			}
		} else {
			assert.EqualValues(t, pkcs11.CKR_ATTRIBUTE_SENSITIVE, a.ReadValue, "reading CKA_VALUE")
		}
		assert.EqualValues(t, pkcs11.CKR_KEY_UNEXTRACTABLE, a.Wrap, "%s: C_WrapKey", s.KeySpec)
		assert.EqualValues(t, pkcs11.CKR_ATTRIBUTE_READ_ONLY, a.Extractable, "%s: making it extractable", s.KeySpec)
		assert.EqualValues(t, pkcs11.CKR_ATTRIBUTE_READ_ONLY, a.Insensitive, "%s: making it not sensitive", s.KeySpec)
	}
}
