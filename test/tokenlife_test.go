package test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	golangjwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
)

// makes returns a spec of which the token makes keys, one for MACs if there is one, and how a command asks for it.
func (s *tokenSuite) makes(t *testing.T) (in *kms.CreateKeyInput, args []string) {
	t.Helper()
	for _, spec := range []types.KeySpec{types.KeySpecHmac256, types.KeySpecEccNistP256, types.KeySpecRsa2048} {
		if m := s.made[spec]; m != nil {
			return &kms.CreateKeyInput{KeySpec: spec, KeyUsage: m.KeyUsage},
				[]string{"create-key", "--key-spec", string(spec), "--key-usage", string(m.KeyUsage)}
		}
	}
	require.Fail(t, "the token makes no keys at all")
	return nil, nil
}

// stream: a MAC over more than GenerateMac takes, in pieces.
func (s *tokenSuite) stream(t *testing.T) string {
	if s.macKey == "" {
		return s.refused[types.KeySpecHmac256]
	}
	stream, err := s.c.NewMAC(t.Context(), s.macKey, types.MacAlgorithmSpecHmacSha256)
	if err != nil {
		return no(t, err)
	}
	data := bytes.Repeat([]byte("a line of data.\n"), 1<<16)
	for piece := range slices.Chunk(data, 100_000) {
		_, err := stream.Write(piece)
		require.NoError(t, err)
	}
	mac, err := stream.Sum()
	require.NoError(t, err)
	assert.True(t, bytes.Equal(s.theirMAC(t, "SHA256-HMAC", s.d.ckaID(t, s.macKey), data), mac), "pkcs11-tool makes another MAC")
	return yes
}

func (s *tokenSuite) jwt(t *testing.T, keyID string) (token string) {
	t.Helper()
	signed := s.run(t, "jwt", "sign", "--key-id", keyID, "--claims", `{"sub":"alice"}`, "--expires-in", "1h")
	token = strings.TrimSpace(string(signed))
	s.run(t, "jwt", "verify", "--key-id", keyID, token)
	return token
}

// macTokens: the independent client makes the MAC of a JSON Web Token.
func (s *tokenSuite) macTokens(t *testing.T) string {
	if s.macKey == "" {
		return s.refused[types.KeySpecHmac256]
	}
	token := s.jwt(t, s.macKey)
	end := strings.LastIndex(token, ".")
	mac, err := base64.RawURLEncoding.DecodeString(token[end+1:])
	require.NoError(t, err)
	theirs := s.theirMAC(t, "SHA256-HMAC", s.d.ckaID(t, s.macKey), []byte(token[:end]))
	assert.True(t, bytes.Equal(theirs, mac), "pkcs11-tool makes another MAC")
	return yes
}

// signedTokens: another library verifies JSON Web Tokens by RSA and by P-256, whichever the token can do.
func (s *tokenSuite) signedTokens(t *testing.T) string {
	answer := ""
	for spec, parse := range map[types.KeySpec]func([]byte) (any, error){
		types.KeySpecRsa2048:     func(text []byte) (any, error) { return golangjwt.ParseRSAPublicKeyFromPEM(text) },
		types.KeySpecEccNistP256: func(text []byte) (any, error) { return golangjwt.ParseECPublicKeyFromPEM(text) },
	} {
		m := s.made[spec]
		if m == nil {
			if answer == "" {
				answer = s.refused[spec]
			}
			continue
		}
		public, err := s.c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: m.KeyId})
		require.NoError(t, err)
		key, err := parse(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public.PublicKey}))
		require.NoError(t, err)
		_, err = golangjwt.Parse(s.jwt(t, *m.KeyId), func(*golangjwt.Token) (any, error) { return key, nil })
		require.NoError(t, err)
		answer = yes
	}
	return answer
}

// server: the SDK's client, which signs its requests with an access key whose secret a service key in the token makes.
func (s *tokenSuite) server(t *testing.T) string {
	printed, why := s.told(t, "iam", "create-access-key")
	if why != "" {
		return "no: " + why
	}
	var made struct {
		AccessKey struct{ AccessKeyId, SecretAccessKey string }
	}
	require.NoError(t, json.Unmarshal(printed, &made))
	served := startFlooded(t, s.d, 1024, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	client, end := served.sdk(made.AccessKey.AccessKeyId, made.AccessKey.SecretAccessKey, true, 1)
	defer end()
	message := []byte("over the wire")
	if s.macKey == "" {
		s.signedOverTheWire(t, client, message)
		served.stop(t)
		return yes
	}
	mac, err := client.GenerateMac(t.Context(), macInput(s.macKey, types.MacAlgorithmSpecHmacSha256, message))
	require.NoError(t, err)
	assert.True(t, bytes.Equal(s.theirMAC(t, "SHA256-HMAC", s.d.ckaID(t, s.macKey), message), mac.Mac), "pkcs11-tool makes another MAC")
	_, err = client.VerifyMac(t.Context(), verifyInput(s.macKey, types.MacAlgorithmSpecHmacSha256, message, mac.Mac))
	require.NoError(t, err)
	in, _ := s.makes(t)
	created, err := client.CreateKey(t.Context(), in)
	require.NoError(t, err)
	_, err = s.c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: created.KeyMetadata.KeyId})
	require.NoError(t, err)
	served.stop(t)
	return yes
}

// signedOverTheWire is what a server on a token can do that makes no HMAC keys.
func (s *tokenSuite) signedOverTheWire(t *testing.T, client *kms.Client, message []byte) {
	t.Helper()
	made, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeSignVerify})
	require.NoError(t, err)
	const algorithm = types.SigningAlgorithmSpecRsassaPkcs1V15Sha256
	signed, err := client.Sign(t.Context(), &kms.SignInput{KeyId: made.KeyMetadata.KeyId, Message: message, SigningAlgorithm: algorithm})
	require.NoError(t, err)
	_, err = client.Verify(t.Context(), &kms.VerifyInput{KeyId: made.KeyMetadata.KeyId, Message: message, Signature: signed.Signature,
		SigningAlgorithm: algorithm})
	require.NoError(t, err)
}

// processes: two that make keys at once, and then use their own and each other's.
func (s *tokenSuite) processes(t *testing.T) string {
	in, _ := s.makes(t)
	job, inTurns := libraryJob{KeySpec: in.KeySpec, Keys: 20}, false
	if in.KeySpec != types.KeySpecHmac256 {
		// A TPM's resource manager lets a process have 27 keys in use, and its module does not begin while another process writes.
		job.Keys, inTurns = 5, true
	}
	switch unseen := usePeers(t, s.d, job, 2, inTurns); unseen {
	case 0:
		s.shared = yes
	case 2 * job.Keys:
		s.shared = "no: KeyUnavailableException, until the process is started again"
	default:
		t.Errorf("of %d keys each, %d were not seen by the other process", job.Keys, unseen)
	}
	return yes
}

// janitor: what a process leaves that is killed between the object and its record is removed by the next.
func (s *tokenSuite) janitor(t *testing.T) string {
	_, args := s.makes(t)
	s.d.crash(t, "object-made", args...)
	left := unfinished(s.d.records(t))
	require.Len(t, left, 1)
	require.Equal(t, keystore.Creating, left[0].State)
	id := left[0].CKAID.String()
	assert.True(t, s.holds(t, id), "it died before it had made the object")
	s.run(t, "list-keys")
	require.Empty(t, unfinished(s.d.records(t)))
	assert.False(t, s.holds(t, id), "the object is there still")
	return yes
}

// deletion: the object of a key whose waiting period is over is destroyed.
func (s *tokenSuite) deletion(t *testing.T) string {
	in, _ := s.makes(t)
	out, err := s.c.CreateKey(t.Context(), in)
	require.NoError(t, err)
	id := s.d.ckaID(t, *out.KeyMetadata.KeyId)
	require.True(t, s.holds(t, id))
	_, err = s.c.ScheduleKeyDeletion(t.Context(),
		&kms.ScheduleKeyDeletionInput{KeyId: out.KeyMetadata.KeyId, PendingWindowInDays: aws.Int32(7)})
	require.NoError(t, err)
	p := s.d.destroyer(t, destroyerJob{StateDir: s.d.path, Ahead: 8 * 24 * time.Hour, Settled: true})
	p.end()
	p.finish()
	assert.False(t, s.holds(t, id), "the object is there still")
	return yes
}

// adoption: a key that another application has made makes and signs what it always did. The script has labelled it by its spec.
func (s *tokenSuite) adoption(t *testing.T, spec types.KeySpec) string {
	label := "theirs-" + string(spec)
	m, weaknesses, err := doctor.AdoptKey(t.Context(), s.c, doctor.AdoptOptions{Label: label, KeySpec: spec})
	if err != nil {
		answer := no(t, err)
		if strings.Contains(answer, "no key object of the token has the label") {
			return "no: the token's own tool makes no such key"
		}
		return answer
	}
	answer := yes
	if i := slices.IndexFunc(specs, func(known macSpec) bool { return known.name == spec }); i >= 0 {
		s.requireMACs(t, specs[i], *m.KeyId)
		if s.macKey == "" {
			s.macKey = *m.KeyId
		}
	} else {
		answer = s.requireSignatures(t, m)
	}
	if len(weaknesses) > 0 {
		answer += "; the object is " + strings.Join(weaknesses, ", ")
	}
	return answer
}

// doctor: it names every gap that CreateKey has met and no other, and finds every key sound. What else it says of the token is the
// answer.
func (s *tokenSuite) doctor(t *testing.T) string {
	r, err := run(s.d.command("doctor", "--json"))
	require.NoError(t, err)
	var report doctor.Report
	require.NoError(t, json.Unmarshal(r.stdout, &report), "%s", r.stderr)
	require.Len(t, report.Regions, 1)
	able := report.Regions[0].Token
	require.NotNil(t, able)
	for spec := range s.made {
		assert.NotContains(t, able.MissingKeySpecs, string(spec), "doctor says that it cannot be made")
	}
	untried := append([]string{string(types.KeySpecRsa3072), string(types.KeySpecRsa4096)}, able.UntriedKeySpecs...)
	var said []string
	for _, check := range report.Checks {
		expected := strings.HasPrefix(check.Text, "cannot make or use ") || strings.HasPrefix(check.Text, "nobody knows whether it makes ") ||
			strings.HasPrefix(check.Text, "its adopted object is ")
		if check.Status == doctor.StatusOK || check.Status == doctor.StatusWarning && expected {
			continue
		}
		assert.Equal(t, "token", check.Area, "%s: %s", check.Subject, check.Text)
		said = append(said, check.Status+": "+check.Text)
	}
	for spec, gap := range s.refused {
		if !slices.Contains(untried, string(spec)) {
			assert.Contains(t, able.MissingKeySpecs, string(spec), "doctor says nothing of what CreateKey refuses: %s", gap)
		}
	}
	if len(said) == 0 {
		return "nothing"
	}
	return strings.Join(said, "; ")
}
