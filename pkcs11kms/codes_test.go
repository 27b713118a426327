package pkcs11kms

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// This file has what is done for each case of the table of return values, see codestable_test.go: an operation meets a return value of
// a C_ function, and afterwards the token is well again.

// codeOperations are the operations that the table is about. Each works on a Bridge that has just been opened, so that it needs a session
// and has to find its key. It checks what it was answered, and returns the error.
var codeOperations = map[string]func(*codeFixture, *Client) error{
	"GenerateMac": func(f *codeFixture, c *Client) error {
		mac, err := generate(f.t.Context(), c, f.hmac.KeyId, []byte("message"))
		if err == nil {
			assert.Equal(f.t, f.mac, mac, "a wrong MAC")
		}
		return err
	},
	"Sign": func(f *codeFixture, c *Client) error {
		ask := &kms.SignInput{KeyId: f.pair.KeyId, Message: []byte("message"), SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256}
		out, err := c.Sign(f.t.Context(), ask)
		if err == nil {
			_, err := c.Verify(f.t.Context(), &kms.VerifyInput{KeyId: ask.KeyId, Message: ask.Message,
				SigningAlgorithm: ask.SigningAlgorithm, Signature: out.Signature})
			assert.NoError(f.t, err, "a wrong signature")
		}
		return err
	},
	"CreateKey HMAC_256":      func(f *codeFixture, c *Client) error { return f.create(c, types.KeySpecHmac256) },
	"CreateKey ECC_NIST_P256": func(f *codeFixture, c *Client) error { return f.create(c, types.KeySpecEccNistP256) },
}

// codeFixture is a token behind a module that injects faults, with a key of each kind.
type codeFixture struct {
	t       *testing.T
	m       *faultp11.Module
	cfg     testConfig
	hmac    *types.KeyMetadata
	pair    *types.KeyMetadata
	codes   []string // the names of all return values, and one of a vendor
	mac     []byte   // of "message" by hmac
	created []string
}

func newCodeFixture(t *testing.T) *codeFixture {
	cfg, tok := newConfigAndToken(t)
	f := &codeFixture{t: t, m: faultp11.New(t, tok.Module)}
	tok.Module = f.m.Path
	cfg.Regions = map[string]Region{testRegion: {Token: tok.URI(tok.PINFile)}}
	f.cfg = cfg
	c := f.open()
	f.hmac, f.pair = mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecEccNistP256)
	f.created = []string{*f.hmac.KeyId, *f.pair.KeyId}
	var err error
	f.mac, err = generate(t.Context(), c, f.hmac.KeyId, []byte("message"))
	require.NoError(t, err)
	for _, line := range f.m.Do("codes") {
		name, _, _ := strings.Cut(line, " ")
		f.codes = append(f.codes, name)
	}
	f.codes = append(f.codes, "0x80000001")
	require.NoError(t, c.Close())
	return f
}

func (f *codeFixture) open() *Client {
	f.t.Helper()
	c, err := newAt(context.WithoutCancel(f.t.Context()), f.cfg)
	require.NoError(f.t, err)
	<-c.bridge.core.Keys.Settled()
	return c
}

// create makes a key, and notes it if that was acknowledged.
func (f *codeFixture) create(c *Client, spec types.KeySpec) error {
	usage := types.KeyUsageTypeGenerateVerifyMac
	if spec == types.KeySpecEccNistP256 {
		usage = types.KeyUsageTypeSignVerify
	}
	out, err := c.CreateKey(f.t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
	if err == nil {
		f.created = append(f.created, *out.KeyMetadata.KeyId)
	}
	return err
}

// functions returns the C_ functions on the way of an operation, as often as it calls them.
func (f *codeFixture) functions(operation string) map[string]faultp11.Counters {
	f.t.Helper()
	c := f.open()
	f.m.Do("reset")
	require.NoError(f.t, codeOperations[operation](f, c))
	called := f.m.Counters()
	require.NoError(f.t, c.Close())
	return called
}

// codeCase is a return value of a function on the way of an operation.
type codeCase struct{ operation, function, rv, mode string }

// The modes of a case, and the conditions of its rule.
var codeModes = map[string]string{
	"once":                "times=1",
	"once, having worked": "times=1 after",
	"always":              "",
}

// play plays a case, and returns what the caller was answered and what it took until all was well again.
func (f *codeFixture) play(k codeCase) (answer, recovery string) {
	f.t.Helper()
	return f.playRule(k, k.function+" fail "+k.rv+" "+codeModes[k.mode])
}

// playRule plays a case with a rule of the module.
func (f *codeFixture) playRule(k codeCase, rule string) (answer, recovery string) {
	f.t.Helper()
	c := f.open()
	defer func() { assert.NoError(f.t, c.Close()) }()
	f.m.Do("reset")
	f.m.Rule(rule)
	answer = codeAnswer(codeOperations[k.operation](f, c))
	assert.NotEqual(f.t, "KMSInternalException", answer, "%+v: it is the device's fault", k)
	assert.Positive(f.t, f.m.Counters()[k.function].Faults, "%+v: the function is not on the way", k)
	if strings.HasPrefix(k.function, "C_GenerateKey") && !refusal(k.rv) {
		assert.Equal(f.t, 1, f.m.Counters()[k.function].Calls, "%+v: the key is made again", k)
	}
	f.m.Clear()
	recovery = "at once"
	if err := codeOperations[k.operation](f, c); err != nil {
		assert.Contains(f.t, []string{"KeyUnavailableException", "DependencyTimeoutException", "UnsupportedOperationException"},
			codeAnswer(err), "%+v: once the token is well", k)
		if !f.comesBack(k, c, err) {
			assert.NoError(f.t, c.Close())
			recovery, c = "restart", f.open()
			assert.NoError(f.t, codeOperations[k.operation](f, c), "%+v: after a restart", k)
		}
	}
	requireSessionsBack(f.t, c)
	f.requireNoOrphans(c, k)
	f.removeCreated(c)
	assert.Empty(f.t, f.m.Violations(), "%+v", k)
	return answer, recovery
}

// comesBack waits for a token that is brought back, and reports whether the operation succeeds then. What the token is believed not to do
// is not asked for again so soon.
func (f *codeFixture) comesBack(k codeCase, c *Client, err error) bool {
	for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if codeAnswer(err) == "UnsupportedOperationException" {
			return false
		}
		err = codeOperations[k.operation](f, c)
	}
	return err == nil
}

// codeAnswer names what a caller is answered with.
func codeAnswer(err error) string {
	var api smithy.APIError
	switch {
	case err == nil:
		return "success"
	case errors.As(err, &api):
		return api.ErrorCode()
	}
	return err.Error()
}

// requireNoOrphans asserts that after the janitor the token has the objects of the keys that were acknowledged, and no other.
func (f *codeFixture) requireNoOrphans(c *Client, k codeCase) {
	f.t.Helper()
	_, err := c.bridge.core.Keys.Tidy(f.t.Context())
	assert.NoError(f.t, err, "%+v: the janitor", k)
	var labels []string
	for _, o := range objectsOf(f.t, c.region.Token) {
		if o.ClassName() != "CKO_PUBLIC_KEY" {
			labels = append(labels, o.Label)
		}
	}
	assert.ElementsMatch(f.t, f.created, labels, "%+v: objects of the token, and keys that were acknowledged", k)
	unfinished, err := c.bridge.core.Store.Lookup(f.t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 10)
	require.NoError(f.t, err)
	assert.Empty(f.t, unfinished, "%+v: records", k)
}

// removeCreated removes the keys of a case, so that the next one is not slowed down by them.
func (f *codeFixture) removeCreated(c *Client) {
	for _, id := range f.created[2:] {
		record, version := storedKey(f.t, c, &id)
		_, err := c.bridge.core.Keys.Finish(f.t.Context(), record, version)
		require.NoError(f.t, err)
	}
	f.created = f.created[:2]
}
