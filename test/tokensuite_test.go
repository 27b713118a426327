package test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
)

// tokenSuite tries everything on one token. What the token cannot do is refused, in words that name the gap: that is a finding.
// Whatever else goes wrong fails the test.
type tokenSuite struct {
	d       *stateDir
	dir     string // of the token and its PIN
	pin     string
	c       *pkcs11kms.Client
	found   []finding
	made    map[types.KeySpec]*types.KeyMetadata
	shared  string                   // what processes found about the use of another process\'s keys
	macKey  string                   // the id of a key of HMAC_256, made or adopted; empty where there is none
	refused map[types.KeySpec]string // the gap
}

// runTokenSuite runs the suite in the process that a script of the folder tokens has started, and writes what it found.
func runTokenSuite(t *testing.T) {
	s := newTokenSuite(t)
	s.tryMACs(t)
	s.trySignatures(t)
	for _, spec := range []types.KeySpec{types.KeySpecHmac256, types.KeySpecRsa2048, types.KeySpecEccNistP256} {
		s.try(t, "adoption of "+string(spec), func(t *testing.T) string { return s.adoption(t, spec) })
	}
	s.try(t, "MAC of 1 MiB", s.stream)
	s.try(t, "JSON Web Tokens by HMAC", s.macTokens)
	s.try(t, "JSON Web Tokens by signature", s.signedTokens)
	s.try(t, "server and access keys", s.server)
	s.try(t, "two processes make keys at once", s.processes)
	s.try(t, "a running process uses what another makes", func(*testing.T) string { return s.shared })
	s.try(t, "killed while it makes a key", s.janitor)
	s.try(t, "deletion destroys the object", s.deletion)
	s.try(t, "keeps the last seal of the audit log", s.lastSeal)
	s.try(t, "what doctor says besides", s.doctor)
	text, err := json.Marshal(findings{os.Getenv("TOKEN_VERSION"), s.found})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "findings"), text, 0o600))
}

func newTokenSuite(t *testing.T) *tokenSuite {
	pinFile := os.Getenv("TOKEN_PIN_FILE")
	pin, err := os.ReadFile(pinFile)
	require.NoError(t, err)
	tok := softhsm.Token{Module: os.Getenv("TOKEN_MODULE"), Label: os.Getenv("TOKEN_LABEL"), ConfigFile: os.Getenv(softhsm.EnvConfig)}
	s := &tokenSuite{dir: filepath.Dir(pinFile), pin: string(pin),
		made: map[types.KeySpec]*types.KeyMetadata{}, refused: map[types.KeySpec]string{}}
	s.d = &stateDir{binary: executable(t, realBinary), path: filepath.Join(s.dir, "state"),
		token: softhsm.TestToken{Token: tok, PINFile: pinFile}}
	uri := strings.Replace(tok.URI(pinFile), ";serial=", "", 1) // which the script does not know
	s.run(t, "init", "--token", uri)
	s.c, err = statedir.New(t.Context(), s.d.config(t))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.c.Close()) })
	return s
}

// try finds out about one feature. A test that fails is no finding.
func (s *tokenSuite) try(t *testing.T, feature string, f func(*testing.T) string) {
	t.Run(feature, func(t *testing.T) {
		answer := f(t)
		require.NotEmpty(t, answer)
		s.found = append(s.found, finding{feature, answer})
	})
}

const yes = "yes"

// no is the answer of a caller who was refused: nothing but a refusal will do.
func no(t *testing.T, err error) string {
	t.Helper()
	if unsupported, ok := errors.AsType[*types.UnsupportedOperationException](err); ok {
		return "no: " + unsupported.ErrorMessage()
	}
	var refused *pkcs11kms.RefusedError
	require.ErrorAs(t, err, &refused)
	return "no: " + refused.Error()
}

// run runs a verb of the binary. A module may write to the standard error of a process that uses it.
func (s *tokenSuite) run(t *testing.T, args ...string) []byte {
	t.Helper()
	r, err := run(s.d.command(args...))
	require.NoError(t, err)
	require.Zero(t, r.code, "%s: %s", args, r.stderr)
	return r.stdout
}

// told is why a verb was refused: what it told on the last line but the hints. The empty text says that it was done.
func (s *tokenSuite) told(t *testing.T, args ...string) (stdout []byte, why string) {
	t.Helper()
	r, err := run(s.d.command(args...))
	require.NoError(t, err)
	if r.code == 0 {
		return r.stdout, ""
	}
	for line := range strings.Lines(string(r.stderr)) {
		if text, ours := strings.CutPrefix(strings.TrimSpace(line), "pkcs11kms: "); ours {
			return nil, text
		}
	}
	require.Fail(t, "no word of ours", "%s: %s", args, r.stderr)
	return nil, ""
}

// opensc prepares pkcs11-tool, the independent client of the token.
func (s *tokenSuite) opensc(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return openscAt(t, s.d.token.Token, s.pin, args...)
}

// theirMAC is what pkcs11-tool makes of a message with the object.
func (s *tokenSuite) theirMAC(t *testing.T, mechanism, ckaID string, message []byte) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "mac")
	printed, err := s.opensc(t, "--sign", "--mechanism", mechanism, "--id", ckaID,
		"--input-file", inFile(t, message), "--output-file", out).CombinedOutput()
	require.NoError(t, err, "%s", printed)
	mac, err := os.ReadFile(out)
	require.NoError(t, err)
	return mac
}

// holds tells whether pkcs11-tool sees objects with the CKA_ID.
func (s *tokenSuite) holds(t *testing.T, ckaID string) bool {
	t.Helper()
	listed, err := s.opensc(t, "--list-objects").CombinedOutput()
	require.NoError(t, err, "%s", listed)
	return strings.Contains(string(listed), ckaID)
}
