package clients

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// opensslVerifies is the judge of signatures: it knows nothing but the public key, as DER in base64.
func opensslVerifies(t *testing.T, public, algorithm string, message []byte, signature string) bool {
	t.Helper()
	arguments, known := map[string][]string{
		"RSASSA_PKCS1_V1_5_SHA_256": {"-sha256"},
		"RSASSA_PSS_SHA_384":        {"-sha384", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"},
		"ECDSA_SHA_256":             {"-sha256"},
		"ED25519_SHA_512":           {"-rawin"},
	}[algorithm]
	require.True(t, known, algorithm)
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	der, pem := write("public.der", decoded(t, public)), filepath.Join(dir, "public.pem")
	out, err := process(t, environment(t), openssl.find(t), "pkey", "-pubin", "-inform", "DER", "-in", der, "-out", pem).CombinedOutput()
	require.NoError(t, err, "%s", out)
	says := "Verified OK"
	if algorithm == "ED25519_SHA_512" {
		says = "Signature Verified Successfully"
		arguments = append([]string{"pkeyutl", "-verify", "-pubin", "-inkey", pem, "-sigfile", write("signature", decoded(t, signature)),
			"-in", write("message", message)}, arguments...)
	} else {
		arguments = append(append([]string{"dgst"}, arguments...), "-verify", pem,
			"-signature", write("signature", decoded(t, signature)), write("message", message))
	}
	out, err = process(t, environment(t), openssl.find(t), arguments...).CombinedOutput()
	require.Equal(t, err == nil, bytes.Contains(out, []byte(says)), "%s", out)
	return err == nil
}

func decoded(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	require.NoError(t, err)
	return b
}

// newSigningKey is newKey for a key pair.
func newSigningKey(t *testing.T, library *pkcs11kms.Client, spec string) (arn string) {
	t.Helper()
	var in kms.CreateKeyInput
	require.NoError(t, translate(members{"KeySpec": spec, "KeyUsage": "SIGN_VERIFY"}, &in))
	out, err := library.CreateKey(t.Context(), &in)
	require.NoError(t, err)
	return *out.KeyMetadata.Arn
}

// TestSignatures: what each client has signed is valid for openssl, which has the public key from the same client, and for
// the client itself. The first is RS256 as a JSON Web Token has it.
func TestSignatures(t *testing.T) {
	srv := newServer(t)
	to, library := targetOf(srv), inProcess(t, srv)
	cases := []struct{ spec, algorithm, key string }{
		{"RSA_2048", "RSASSA_PKCS1_V1_5_SHA_256", newSigningKey(t, library, "RSA_2048")},
		{"RSA_2048", "RSASSA_PSS_SHA_384", newSigningKey(t, library, "RSA_2048")},
		{"ECC_SECG_P256K1", "ECDSA_SHA_256", newSigningKey(t, library, "ECC_SECG_P256K1")},
		{"ECC_NIST_EDWARDS25519", "ED25519_SHA_512", newSigningKey(t, library, "ECC_NIST_EDWARDS25519")},
	}
	onEachClient(t, func(t *testing.T, c client) {
		for _, test := range cases {
			public := c.must(t, to, "GetPublicKey", members{"KeyId": test.key})
			require.Equal(t, test.key, public["KeyId"])
			require.Equal(t, test.spec, public["KeySpec"])
			require.Equal(t, "SIGN_VERIFY", public["KeyUsage"])
			require.Contains(t, public["SigningAlgorithms"], test.algorithm)

			use := members{"KeyId": test.key, "Message": base64Of(message), "MessageType": "RAW", "SigningAlgorithm": test.algorithm}
			signed := c.must(t, to, "Sign", use)
			require.Equal(t, test.key, signed["KeyId"])
			require.Equal(t, test.algorithm, signed["SigningAlgorithm"])
			signature := signed["Signature"].(string)
			require.True(t, opensslVerifies(t, public["PublicKey"].(string), test.algorithm, message, signature), "openssl")
			require.False(t, opensslVerifies(t, public["PublicKey"].(string), test.algorithm, message[1:], signature), "openssl")

			use["Signature"] = signature
			verified := c.must(t, to, "Verify", use)
			require.Equal(t, members{"KeyId": test.key, "SignatureValid": true, "SigningAlgorithm": test.algorithm}, verified)
			use["Signature"] = tampered(signature)
			c.refused(t, c.do(t, to, "Verify", use), "KMSInvalidSignatureException", "")
		}
	})
}

// TestSigningKeys: a pair that the client itself makes, and what it is not for.
func TestSigningKeys(t *testing.T) {
	srv := newServer(t)
	to := targetOf(srv)
	mac := newKey(t, inProcess(t, srv), "HMAC_256")
	onEachClient(t, func(t *testing.T, c client) {
		created := metadata(t, c.must(t, to, "CreateKey", members{"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}))
		require.Equal(t, []any{"ECDSA_SHA_256"}, created["SigningAlgorithms"])
		require.Nil(t, created["MacAlgorithms"])
		key, arn := created["KeyId"].(string), created["Arn"].(string)
		sign := func(changes members) members {
			input := members{"KeyId": key, "Message": base64Of(message[:32]), "SigningAlgorithm": "ECDSA_SHA_256"}
			for name, value := range changes {
				input[name] = value
			}
			return input
		}
		require.NotEmpty(t, c.must(t, to, "Sign", sign(members{"MessageType": "DIGEST"}))["Signature"])
		c.expect(t, to,
			call{"Sign", sign(members{"MessageType": "DIGEST", "Message": base64Of(message)}), "ValidationException",
				"Digest is invalid length for algorithm ECDSA_SHA_256."},
			call{"Sign", sign(members{"SigningAlgorithm": "ECDSA_SHA_512"}), "InvalidKeyUsageException",
				"Algorithm ECDSA_SHA_512 is incompatible with key spec ECC_NIST_P256."},
			call{"Sign", sign(members{"KeyId": mac}), "InvalidKeyUsageException",
				mac + " key usage is GENERATE_VERIFY_MAC which is not valid for Sign."},
			call{"GenerateMac", members{"KeyId": key, "Message": base64Of(message), "MacAlgorithm": "HMAC_SHA_256"}, "InvalidKeyUsageException",
				arn + " key usage is SIGN_VERIFY which is not valid for GenerateMac."},
			call{"DisableKey", members{"KeyId": key}, "", ""},
			call{"Sign", sign(nil), "DisabledException", arn + " is disabled."},
			call{"GetPublicKey", members{"KeyId": key}, "DisabledException", arn + " is disabled."})
	})
}
