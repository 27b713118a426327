package server

import (
	"bufio"
	"bytes"
	"crypto/fips140"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// The files of testdata are requests with their answers, byte for byte; testdata/README says how they are written.

// goldenTime is the clock of Bridge, server and signer.
var goldenTime = time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)

// otherRegion is where the files create and change keys, so that lists of testRegion stay as they are.
const otherRegion = "eu-west-1"

// The keys of otherRegion. The files change none that another file reads.
const (
	readKey      = "11111111-0000-4000-8000-000000000000"
	changedKey   = "22222222-0000-4000-8000-000000000000"
	pendingKey   = "33333333-0000-4000-8000-000000000000"
	cancelledKey = "44444444-0000-4000-8000-000000000000"
	scheduledKey = "55555555-0000-4000-8000-000000000000"
	targetKey    = "66666666-0000-4000-8000-000000000000"
)

// goldenFixture has the keys that the files speak of.
func goldenFixture(t *testing.T) *fixture {
	return newFixture(t, func(cfg *pkcs11kms.Config, o *Options) {
		other := softhsm.NewToken(t)
		cfg.Regions[otherRegion] = pkcs11kms.Region{Token: other.URI(other.PINFile)}
		cfg.Now = func() time.Time { return goldenTime }
		o.Now = cfg.Now
		signing, public := rfcSigningKey(t, cfg)
		records := []keystore.Key{
			{ID: "1234abcd-12ab-34cd-56ef-1234567890ab", State: keystore.Enabled, Spec: "HMAC_256", CKAID: rfcKey(t, cfg)},
			{ID: "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", State: keystore.Enabled, Spec: "RSA_2048", Usage: "SIGN_VERIFY", CKAID: signing,
				PublicKey: public},
			{ID: "dddddddd-0000-4000-8000-000000000000", State: keystore.Disabled, Spec: "HMAC_512", CKAID: []byte{3}, Description: "Übung"},
			{ID: "eeeeeeee-0000-4000-8000-000000000000", State: keystore.Enabled, Spec: "HMAC_256", CKAID: []byte{4}}, // no object in the token
		}
		for _, k := range append(records, lifeRecords()...) {
			k.Region, k.Account, k.Origin, k.Usage = either(k.Region, testRegion), testAccount, "AWS_KMS", either(k.Usage, "GENERATE_VERIFY_MAC")
			k.Created = goldenTime
			_, err := cfg.Store.Commit(t.Context(), k.Put(0))
			require.NoError(t, err)
		}
		use := keystore.KeyUse{Region: otherRegion, Account: testAccount, KeyID: pendingKey, Operation: "GenerateMac",
			At: goldenTime.Truncate(time.Second), Event: "77777777-0000-4000-8000-000000000000", Request: "88888888-0000-4000-8000-000000000000"}
		_, err := cfg.Store.Commit(t.Context(), use.Put(0))
		require.NoError(t, err)
		for name, target := range map[string]string{"alias/signing": readKey, "alias/tokens-moving": changedKey, "alias/tokens-old": changedKey} {
			a := keystore.Alias{Region: otherRegion, Account: testAccount, Name: name, Target: target, Created: goldenTime, Updated: goldenTime}
			_, err := cfg.Store.Commit(t.Context(), a.Put(0))
			require.NoError(t, err)
		}
	})
}

// lifeRecords are the keys of otherRegion, none of which has an object in the token: what the files ask does not need it.
func lifeRecords() []keystore.Key {
	due := goldenTime.Add(7 * 24 * time.Hour)
	tags := []keystore.Tag{{Key: "Purpose", Value: "tokens"}, {Key: "Stage"}}
	records := []keystore.Key{
		{ID: readKey, State: keystore.Enabled, Spec: "HMAC_256", Aliases: 1, Tags: tags},
		{ID: changedKey, State: keystore.Enabled, Spec: "HMAC_256", Aliases: 2, Tags: tags[1:]},
		{ID: pendingKey, State: keystore.PendingDeletion, Spec: "HMAC_256", DeletionDate: due},
		{ID: cancelledKey, State: keystore.PendingDeletion, Spec: "HMAC_256", DeletionDate: due},
		{ID: scheduledKey, State: keystore.Enabled, Spec: "HMAC_512"},
		{ID: targetKey, State: keystore.Enabled, Spec: "HMAC_512"},
	}
	for i := range records {
		records[i].Region, records[i].CKAID = otherRegion, []byte{5, byte(i)}
	}
	return records
}

// rfcKey puts the key of test case 6 of RFC 4231 into the token and returns its CKA_ID.
func rfcKey(t *testing.T, cfg *pkcs11kms.Config) []byte {
	tok, err := token.Open(t.Context(), token.Config{URI: cfg.Regions[testRegion].Token})
	require.NoError(t, err)
	id := bytes.Repeat([]byte{1}, 16)
	_, err = tok.ImportHMACKey(t.Context(), token.SHA256, id, "RFC 4231", bytes.Repeat([]byte{0xaa}, 131))
	require.NoError(t, err)
	require.NoError(t, tok.Close())
	return id
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err)
	require.Greater(t, len(files), 50)
	f := goldenFixture(t)
	inactive, err := f.bridge.IAM().As(f.bridge.Root()).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	require.NoError(t,
		f.bridge.IAM().As(f.bridge.Root()).UpdateAccessKey(t.Context(), iam.PrincipalName{}, inactive.ID, keystore.AccessKeyInactive))
	vars := strings.NewReplacer("{{id}}", f.key.ID, "{{inactive}}", inactive.ID)
	r := f.run(t, Listen{})
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			if fips140.Enabled() && bytes.Contains(data, []byte("ECC_SECG_P256K1")) {
				t.Skip("not approved in FIPS 140-3 mode")
			}
			g := parseGolden(t, vars.Replace(string(data)))
			if g.sign["secret"] == "" && g.sign["id"] == inactive.ID {
				g.sign["secret"] = inactive.Secret
			}
			g.requireAnswer(t, f.send(t, g.toSend(t, f, r.url)))
		})
	}
}

// golden is one file.
type golden struct {
	method, target string
	header         http.Header
	body           string
	sign           map[string]string // how, where not as usual
	tamper         http.Header       // set after signing; an empty value removes
	status         int
	answerHeader   http.Header
	answer         string
}

func parseGolden(t *testing.T, text string) *golden {
	archive := txtar.Parse([]byte(text))
	require.Contains(t, string(archive.Comment), "Source:", "each file says where its expectation comes from")
	g := &golden{sign: map[string]string{}, tamper: http.Header{}}
	for _, part := range archive.Files {
		content := repeated(t, string(part.Data))
		switch part.Name {
		case "request":
			var line string
			line, g.header, g.body = message(t, content)
			g.method, g.target, _ = strings.Cut(line, " ")
		case "sign":
			for line := range strings.Lines(content) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				g.sign[name] = value
			}
		case "tamper":
			_, g.tamper, _ = message(t, "\n"+content+"\n")
		case "response":
			var line string
			var err error
			line, g.answerHeader, g.answer = message(t, content)
			g.status, err = strconv.Atoi(line)
			require.NoError(t, err)
		default:
			require.Fail(t, "unknown part "+part.Name)
		}
	}
	require.NotZero(t, g.status)
	return g
}

// message splits a first line, headers and what follows an empty line. The line end of the last line is the file's.
func message(t *testing.T, content string) (first string, header http.Header, body string) {
	first, rest, _ := strings.Cut(content, "\n")
	header = http.Header{}
	for {
		line, after, _ := strings.Cut(rest, "\n")
		rest = after
		if line == "" {
			return first, header, strings.TrimSuffix(rest, "\n")
		}
		name, value, found := strings.Cut(line, ":")
		require.True(t, found, "header line %q", line)
		header.Add(name, strings.TrimSpace(value))
	}
}

var repetition = regexp.MustCompile(`\{\{(\d+)\*(.+?)\}\}`)

func repeated(t *testing.T, s string) string {
	return repetition.ReplaceAllStringFunc(s, func(m string) string {
		parts := repetition.FindStringSubmatch(m)
		n, err := strconv.Atoi(parts[1])
		require.NoError(t, err)
		return strings.Repeat(parts[2], n)
	})
}

// toSend makes the request, signs it and tampers with it.
func (g *golden) toSend(t *testing.T, f *fixture, url string) *http.Request {
	signed := g.body
	if other, ok := g.sign["body"]; ok {
		signed = other
	}
	r, err := http.NewRequest(g.method, url+g.target, strings.NewReader(g.body))
	require.NoError(t, err)
	r.Header = g.header
	if g.sign["none"] == "" {
		at := goldenTime
		if shift := g.sign["time"]; shift != "" {
			d, err := time.ParseDuration(shift)
			require.NoError(t, err)
			at = at.Add(d)
		}
		f.sign(t, r, signed, signing{g.sign["id"], g.sign["secret"], g.sign["token"], g.sign["region"], g.sign["service"], at})
	}
	for name, values := range g.tamper {
		r.Header.Del(name)
		for _, value := range values {
			if value != "" {
				r.Header.Add(name, value)
			}
		}
	}
	return r
}

// requireAnswer compares what the file says, and what is true of every answer.
func (g *golden) requireAnswer(t *testing.T, got reply) {
	require.Regexp(t, pattern(g.answer), got.body)
	require.Equal(t, g.status, got.StatusCode)
	for name := range g.answerHeader {
		require.Equal(t, g.answerHeader.Values(name), got.Header.Values(name), name)
	}
	requireCommonHeaders(t, got)
}

// pattern is a text in which some names stand for what differs from run to run.
func pattern(text string) string {
	text = regexp.QuoteMeta(text)
	for name, expression := range map[string]string{
		"uuid":   `[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`,
		"marker": `[A-Za-z0-9_-]+`, "base64": `[A-Za-z0-9+/]{43}=`, "enum": `[A-Z0-9_]+(, [A-Z0-9_]+)*`, "words": `\w+(, \w+)*`,
		"user": `AIDA[A-Z2-7]{17}`, "group": `AGPA[A-Z2-7]{17}`, "policy": `ANPA[A-Z2-7]{17}`,
		"time": `20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ`, "key": `AKIA[A-Z2-7]{16}`, "secret": `[A-Za-z0-9+/]{40}`,
	} {
		text = strings.ReplaceAll(text, regexp.QuoteMeta("{{"+name+"}}"), expression)
	}
	return `\A` + text + `\z`
}

// requireCommonHeaders checks what every answer has.
func requireCommonHeaders(t testing.TB, got reply) {
	require.Equal(t, []string{keyManagement.codec.contentType}, got.Header["Content-Type"])
	require.Equal(t, strconv.Itoa(len(got.body)), got.Header.Get("Content-Length"))
	require.Equal(t, "no-cache, no-store, must-revalidate, private", got.Header.Get("Cache-Control"), "no proxy keeps an answer")
	id, err := uuid.Parse(got.Header.Get("X-Amzn-Requestid"))
	require.NoError(t, err)
	require.Equal(t, uuid.Version(4), id.Version())
	date, err := http.ParseTime(got.Header.Get("Date"))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), date, patience, "SDKs measure their clock by it")
	code := ""
	if scanned := regexp.MustCompile(`^\{"__type":"([A-Za-z]+)"`).FindStringSubmatch(got.body); scanned != nil {
		code = scanned[1]
	}
	require.Equal(t, code, got.Header.Get("X-Amzn-Errortype"), "the header beats the body in some SDKs")
	require.Equal(t, code == "", got.StatusCode == http.StatusOK)
}

// Every error class that files can show is shown by one.
func TestGoldenCovers(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err)
	shown := map[string]bool{}
	operations := map[string]bool{}
	for _, file := range files {
		f, err := os.Open(file)
		require.NoError(t, err)
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if m := regexp.MustCompile(`^\{"__type":"(\w+)"`).FindStringSubmatch(lines.Text()); m != nil {
				shown[m[1]] = true
			}
			if m := regexp.MustCompile(`^X-Amz-Target: TrentService\.(\w+)$`).FindStringSubmatch(lines.Text()); m != nil {
				operations[m[1]] = true
			}
		}
		require.NoError(t, f.Close())
	}
	for _, code := range []string{
		"AccessDenied", "AlreadyExists", "Disabled", "DryRunOperation", "IncompleteSignature", "InvalidArn", "InvalidCiphertext",
		"InvalidGrantToken", "InvalidKeyUsage", "InvalidMarker", "InvalidSignature", "KMSInvalidMac", "KMSInvalidSignature", "KMSInvalidState",
		"KeyUnavailable", "LimitExceeded", "MalformedPolicyDocument", "MissingAuthenticationToken", "NotAuthorized", "NotFound",
		"RequestEntityTooLarge", "Serialization", "Tag", "UnknownOperation",
		"UnrecognizedClient", "UnsupportedOperation", "Validation",
	} {
		require.True(t, shown[code+"Exception"], code)
	}
	for name := range operationsDone(t) {
		require.True(t, operations[name], fmt.Sprint("an answer of ", name))
	}
}
