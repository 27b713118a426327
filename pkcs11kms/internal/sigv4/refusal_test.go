package sigv4_test

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	missing    = sigv4.CodeMissingAuthenticationToken
	incomplete = sigv4.CodeIncompleteSignature
	invalid    = sigv4.CodeInvalidSignature
)

const (
	needsCredential    = "Authorization header requires 'Credential' parameter."
	needsSignature     = "Authorization header requires 'Signature' parameter."
	needsSignedHeaders = "Authorization header requires 'SignedHeaders' parameter."
	needsDate          = "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
	badNames           = "Authorization header requires 'SignedHeaders' to be header names in lower case, sorted, " +
		"without repetition, delimited by semicolons."
	badDate    = "Date must be in ISO-8601 'basic format'. See http://en.wikipedia.org/wiki/ISO_8601"
	badPayload = "Header 'x-amz-content-sha256' must be the SHA-256 of the request's body; unsigned and streamed " +
		"payloads are not supported."
	badKeyID = "The security token included in the request is invalid."
)

// refusal is a request that would pass but for what sign changes before signing or change after it.
type refusal struct {
	name          string
	sign          func(r *http.Request, s *signing)
	change        func(r *http.Request)
	code, message string
}

// resign replaces text in the Authorization header after signing.
func resign(old, new string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, new, 1))
	}
}

func authorization(value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", value) }
}

func set(key, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(key, value) }
}

func header(key, value, names string) func(*http.Request, *signing) {
	return func(r *http.Request, s *signing) {
		r.Header.Set(key, value)
		s.signedHeaders = names
	}
}

func names(list string) func(*http.Request, *signing) {
	return func(_ *http.Request, s *signing) { s.signedHeaders = list }
}

func query(wire, canonical string) func(*http.Request, *signing) {
	return func(r *http.Request, s *signing) { r.URL.RawQuery, s.query = wire, canonical }
}

var authorizationRefusals = []refusal{
	{name: "no authorization", change: func(r *http.Request) { r.Header.Del("Authorization") },
		code: missing, message: "Missing Authentication Token"},
	{name: "empty authorization", change: authorization(""), code: missing, message: "Missing Authentication Token"},
	{name: "two authorizations", change: func(r *http.Request) { r.Header.Add("Authorization", "x") },
		code: incomplete, message: "Header 'authorization' must not occur more than once."},
	{name: "basic", change: authorization("Basic dTpw"),
		code: incomplete, message: needsCredential + " " + needsSignature + " " + needsSignedHeaders},
	{name: "nothing but the algorithm", change: func(r *http.Request) {
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256")
		r.Header.Del("X-Amz-Date")
	}, code: incomplete, message: needsCredential + " " + needsSignature + " " + needsSignedHeaders + " " + needsDate},
	{name: "no credential", change: resign("Credential="+accessKeyID+"/20250102/us-east-1/kms/aws4_request, ", ""),
		code: incomplete, message: needsCredential},
	{name: "empty credential", change: resign(accessKeyID+"/20250102/us-east-1/kms/aws4_request", ""),
		code: incomplete, message: needsCredential},
	{name: "no signed headers", change: resign("SignedHeaders=content-type;host;x-amz-date;x-amz-target, ", ""),
		code: incomplete, message: needsSignedHeaders},
	{name: "no signature", change: func(r *http.Request) {
		before, _, _ := strings.Cut(r.Header.Get("Authorization"), ", Signature")
		r.Header.Set("Authorization", before)
	}, code: incomplete, message: needsSignature},
	{name: "no date", change: func(r *http.Request) { r.Header.Del("X-Amz-Date") }, code: incomplete, message: needsDate},
	{name: "no equal sign", change: resign(", Sig", ", bare, Sig"),
		code: incomplete, message: "Invalid key=value pair (missing equal-sign) in Authorization header."},
	{name: "comma at the end", change: func(r *http.Request) { r.Header["Authorization"][0] += "," },
		code: incomplete, message: "Invalid key=value pair (missing equal-sign) in Authorization header."},
	{name: "unknown parameter", change: resign(", Sig", ", Extra=1, Sig"),
		code: incomplete, message: "Authorization header has an unknown parameter."},
	{name: "parameter in lower case", change: resign("Credential", "credential"),
		code: incomplete, message: "Authorization header has an unknown parameter."},
	{name: "two signatures", change: resign(", Sig", ", Signature=0, Sig"),
		code: incomplete, message: "Authorization header has the parameter 'Signature' more than once."},
	{name: "two credentials", change: resign("Credential=", "Credential=, Credential="),
		code: incomplete, message: "Authorization header has the parameter 'Credential' more than once."},
	{name: "too long", change: func(r *http.Request) { r.Header["Authorization"][0] += strings.Repeat(" ", 4096) },
		code: incomplete, message: "Authorization header is too long."},
	{name: "SigV4a", change: resign("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
		code: incomplete, message: "Unsupported AWS 'algorithm' (only AWS4-HMAC-SHA256 for now). "},
	{name: "four elements", change: resign("/aws4_request", ""), code: incomplete,
		message: "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term"},
	{name: "six elements", change: resign(accessKeyID, "AK/ID"), code: incomplete,
		message: "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term"},
	{name: "access key id that nobody has", sign: func(_ *http.Request, s *signing) { s.accessKeyID = "AK\x7fID" },
		code: sigv4.CodeUnrecognizedClient, message: badKeyID},
	{name: "access key id too long", sign: func(_ *http.Request, s *signing) { s.accessKeyID = strings.Repeat("A", 129) },
		code: sigv4.CodeUnrecognizedClient, message: badKeyID},
	{name: "no access key id", sign: func(_ *http.Request, s *signing) { s.accessKeyID = "" },
		code: sigv4.CodeUnrecognizedClient, message: badKeyID},
	{name: "signature too short", change: func(r *http.Request) {
		value := r.Header.Get("Authorization")
		r.Header.Set("Authorization", value[:len(value)-2])
	}, code: invalid, message: mismatchText},
	{name: "signature too long", change: func(r *http.Request) { r.Header["Authorization"][0] += "00" },
		code: invalid, message: mismatchText},
	{name: "signature in upper case", change: func(r *http.Request) {
		before, signature, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
		r.Header.Set("Authorization", before+"Signature="+strings.ToUpper(signature))
	}, code: invalid, message: mismatchText},
	{name: "signature not hexadecimal", change: func(r *http.Request) {
		value := r.Header.Get("Authorization")
		r.Header.Set("Authorization", value[:len(value)-1]+"g")
	}, code: invalid, message: mismatchText},
}

var requestRefusals = []refusal{
	{name: "two dates", change: func(r *http.Request) { r.Header.Add("X-Amz-Date", "20250102T120000Z") },
		code: incomplete, message: "Header 'x-amz-date' must not occur more than once."},
	{name: "date that is none", change: set("X-Amz-Date", "20250132T120000Z"), code: incomplete, message: badDate},
	{name: "extended date", change: set("X-Amz-Date", "2025-01-02T12:00:00Z"), code: incomplete, message: badDate},
	{name: "scope date that is none", change: resign("/20250102/", "/2025010x/"),
		code: incomplete, message: "Date in Credential scope must be YYYYMMDD."},
	{name: "wrong region", sign: func(_ *http.Request, s *signing) { s.region = "us-west-2" },
		code: invalid, message: "Credential should be scoped to a valid region. This endpoint answers for eu-central-1, us-east-1. "},
	{name: "wrong service", sign: func(_ *http.Request, s *signing) { s.service = "s3" },
		code: invalid, message: "Credential should be scoped to correct service: 'kms'. "},
	{name: "wrong terminator", sign: func(_ *http.Request, s *signing) { s.terminator = "aws5_request" },
		code: invalid, message: "Credential should be scoped with a valid terminator: 'aws4_request'. "},
	{name: "wrong scope date", sign: func(_ *http.Request, s *signing) { s.date = "20250101" }, code: invalid,
		message: "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: " +
			"'20250101' != '20250102', from '20250102T120000Z'."},
	{name: "wrong region and service", sign: func(_ *http.Request, s *signing) { s.region, s.service = "", "KMS" },
		code: invalid, message: "Credential should be scoped to a valid region. This endpoint answers for eu-central-1, us-east-1. " +
			"Credential should be scoped to correct service: 'kms'. "},
	{name: "unsigned host", sign: names("content-type;x-amz-date;x-amz-target"),
		code: invalid, message: "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."},
	{name: "unsigned target", sign: names("content-type;host;x-amz-date"),
		code: invalid, message: "'x-amz-target' must be a 'SignedHeader' in the AWS Authorization."},
	{name: "many unsigned", sign: names("host"), change: func(r *http.Request) {
		for c := 'e'; c < 'z'; c++ {
			r.Header.Set("X-Amz-"+string(c), "")
		}
	}, code: invalid, message: "'x-amz-date' must be a 'SignedHeader' in the AWS Authorization."},
	{name: "session token added", change: set("X-Amz-Security-Token", "t"),
		code: invalid, message: "'x-amz-security-token' must be a 'SignedHeader' in the AWS Authorization."},
	{name: "longer name", change: set("X-Amz-Target-Extra", "t"),
		code: invalid, message: "'x-amz-target-extra' must be a 'SignedHeader' in the AWS Authorization."},
	{name: "two session tokens", sign: func(r *http.Request, s *signing) {
		r.Header["X-Amz-Security-Token"] = []string{"t", "u"}
		s.signedHeaders = "host;x-amz-date;x-amz-security-token;x-amz-target"
	}, code: incomplete, message: "Header 'x-amz-security-token' must not occur more than once."},
	{name: "target cut in two", sign: func(r *http.Request, _ *signing) { r.Header.Add("X-Amz-Target", "Other") },
		code: incomplete, message: "Header 'x-amz-target' must not occur more than once."},
	{name: "header under two keys", sign: func(r *http.Request, _ *signing) { r.Header["x-amz-target"] = []string{"Other"} },
		code: incomplete, message: "Header 'x-amz-target' must not occur more than once."},
	{name: "host beside Host", sign: func(r *http.Request, _ *signing) { r.Header["Host"] = []string{"other"} },
		code: incomplete, message: "Header 'host' must not occur more than once."},
	// Its canonical form would be the same as that of an empty header, so the signature fits.
	{name: "signed header absent", sign: names("content-type;host;x-amz-date;x-amz-target;x-custom"),
		code: invalid, message: "'x-custom' is a 'SignedHeader' in the AWS Authorization but not a header of the request."},
	{name: "host absent", sign: func(r *http.Request, _ *signing) { r.Host = "" },
		code: invalid, message: "'host' is a 'SignedHeader' in the AWS Authorization but not a header of the request."},
	{name: "names not sorted", sign: names("host;content-type;x-amz-date;x-amz-target"), code: incomplete, message: badNames},
	{name: "name twice", sign: names("host;host;x-amz-date;x-amz-target"), code: incomplete, message: badNames},
	{name: "name in upper case", sign: names("Content-Type;host;x-amz-date;x-amz-target"), code: incomplete, message: badNames},
	{name: "empty name", sign: names("host;x-amz-date;x-amz-target;"), code: incomplete, message: badNames},
	{name: "name with a blank", sign: names("a b;host;x-amz-date;x-amz-target"), code: incomplete, message: badNames},
	{name: "too many names", sign: names("a" + strings.Repeat(";a", 32)),
		code: incomplete, message: "Authorization header has too many 'SignedHeaders'."},
	{name: "line break in a header", sign: header("X-Custom", "a\nb", "host;x-amz-date;x-amz-target;x-custom"),
		code: incomplete, message: "Signed headers are too long or hold a line break."},
	{name: "headers too long", sign: header("X-Custom", strings.Repeat("a", 65<<10), "host;x-amz-date;x-amz-target;x-custom"),
		code: incomplete, message: "Signed headers are too long or hold a line break."},
	{name: "unsigned payload", sign: func(r *http.Request, s *signing) {
		header("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD", "host;x-amz-content-sha256;x-amz-date;x-amz-target")(r, s)
		s.payload = "UNSIGNED-PAYLOAD"
	}, code: invalid, message: badPayload},
	{name: "streamed payload", sign: header("X-Amz-Content-Sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
		"host;x-amz-content-sha256;x-amz-date;x-amz-target"), code: invalid, message: badPayload},
	{name: "presigned", sign: query("X-Amz-Signature=0", "X-Amz-Signature=0"),
		change: func(r *http.Request) { r.Header.Del("Authorization") }, code: incomplete,
		message: "Presigned requests are not supported: send the signature in the 'Authorization' header."},
	{name: "presigned and authorization", sign: query("X-Amz-Algorithm=AWS4-HMAC-SHA256", "X-Amz-Algorithm=AWS4-HMAC-SHA256"),
		code: invalid, message: "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."},
	{name: "presigned in disguise", sign: query("a=1&x%2Damz-date=1", "a=1&x-amz-date=1"),
		code: invalid, message: "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."},
	{name: "percent sign alone", sign: query("a=%", "a=%25"),
		code: incomplete, message: "Query string has an invalid percent-encoding."},
	{name: "one digit", sign: query("a=%4", "a=%254"),
		code: incomplete, message: "Query string has an invalid percent-encoding."},
	{name: "percent sign before no digit", sign: query("a%0g", "a%250g="),
		code: incomplete, message: "Query string has an invalid percent-encoding."},
	{name: "query too long", sign: query("a="+strings.Repeat("a", 8192), "a="+strings.Repeat("a", 8192)),
		code: incomplete, message: "Path and query string are too long."},
}

var signature = regexp.MustCompile(`[0-9a-f]{64}`)

func TestRefusedWithoutLookup(t *testing.T) {
	verifier := newVerifier()
	for _, tt := range append(authorizationRefusals, requestRefusals...) {
		t.Run(tt.name, func(t *testing.T) {
			verifier.Lookup = func(context.Context, *sigv4.Claim) (sigv4.Key, string, error) {
				t.Error("looked up a key for a request that is refused anyway")
				return sigv4.Key{}, "", sigv4.ErrUnknownKey
			}
			r, s := datedRequest(t), newSigning()
			if tt.sign != nil {
				tt.sign(r, s)
			}
			s.authorize(r)
			if tt.change != nil {
				tt.change(r)
			}
			who, err := verifier.Verify(context.Background(), r, []byte(sampleBody))
			requireRefusal(t, err, tt.code, tt.message)
			assert.Empty(t, who)
			assert.NotRegexp(t, signature, err.Error())
		})
	}
}

// TestHandSigned shows that the refusals are refused for what they change: unchanged, the same requests pass.
func TestHandSigned(t *testing.T) {
	for _, tt := range []refusal{
		{name: "plain"},
		{name: "custom header", sign: header("X-Custom", "", "host;x-amz-date;x-amz-target;x-custom")},
		{name: "query", sign: query("b=%7e&a=+&a=%2f&c", "a=%2B&a=%2F&b=~&c=")},
		{name: "blanks in a header", sign: header("X-Custom", "a b", "host;x-amz-date;x-amz-target;x-custom"),
			change: set("X-Custom", " \ta   b ")},
		{name: "tab in a header", sign: header("X-Custom", "a b", "host;x-amz-date;x-amz-target;x-custom"), change: set("X-Custom", "a\tb")},
		{name: "tabs among blanks", sign: header("X-Custom", "a b c d", "host;x-amz-date;x-amz-target;x-custom"),
			change: set("X-Custom", "\t a \t b\t\tc\t d \t")},
		{name: "path above the root", change: func(r *http.Request) { r.RequestURI = "/../.././" }},
		{name: "other region", sign: func(_ *http.Request, s *signing) { s.region = "eu-central-1" }},
		{name: "without blanks", change: func(r *http.Request) {
			scheme, parameters, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			r.Header.Set("Authorization", scheme+" "+strings.ReplaceAll(parameters, " ", ""))
		}},
		{name: "other order", change: func(r *http.Request) {
			scheme, parameters, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			parts := strings.Split(parameters, ", ")
			r.Header.Set("Authorization", scheme+"   "+parts[2]+",\t"+parts[0]+" , "+parts[1])
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, s := datedRequest(t), newSigning()
			if tt.sign != nil {
				tt.sign(r, s)
			}
			s.authorize(r)
			if tt.change != nil {
				tt.change(r)
			}
			_, err := newVerifier().Verify(context.Background(), r, []byte(sampleBody))
			require.NoError(t, err)
		})
	}
}

// TestDeclaredPayload signs the hash of the real body beside a header that declares another.
func TestDeclaredPayload(t *testing.T) {
	names := "host;x-amz-content-sha256;x-amz-date;x-amz-target"
	r, s := datedRequest(t), newSigning()
	header("X-Amz-Content-Sha256", s.payload, names)(r, s)
	s.authorize(r)
	_, err := newVerifier().Verify(context.Background(), r, []byte(sampleBody))
	require.NoError(t, err)

	header("X-Amz-Content-Sha256", strings.Repeat("0", 64), names)(r, s)
	s.authorize(r)
	_, err = newVerifier().Verify(context.Background(), r, []byte(sampleBody))
	requireRefusal(t, err, invalid, "The provided 'x-amz-content-sha256' header does not match what was computed.")
}
