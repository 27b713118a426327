package sigv4_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The credentials of AWS's own examples.
const (
	accessKeyID = "AKIDEXAMPLE"
	secret      = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

const mismatchText = "The request signature we calculated does not match the signature you provided. Check your AWS Secret " +
	"Access Key and signing method. Consult the service documentation for details."

var noon = time.Date(2025, 1, 2, 12, 0, 0, 0, time.UTC)

const sampleBody = `{"KeyId":"1234abcd-12ab-34cd-56ef-1234567890ab","MacAlgorithm":"HMAC_SHA_256","Message":"aGVsbG8="}`

func lookup(_ context.Context, c *sigv4.Claim) (sigv4.Key, string, error) {
	if c.AccessKeyID != accessKeyID {
		return sigv4.Key{}, "", sigv4.ErrUnknownKey
	}
	return sigv4.SigningKey(secret, c.Date, c.Region, c.Service), "owner of " + c.AccessKeyID, nil
}

func newVerifier() *sigv4.Verifier[string] {
	return &sigv4.Verifier[string]{
		Service: "kms",
		Regions: []string{"us-east-1", "eu-central-1"},
		Now:     func() time.Time { return noon },
		Lookup:  lookup,
	}
}

// newRequest returns an unsigned request as every KMS client sends it.
func newRequest(tb testing.TB, body string) *http.Request {
	tb.Helper()
	r, err := http.NewRequest(http.MethodPost, "http://127.0.0.1:4599/", strings.NewReader(body))
	require.NoError(tb, err)
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "TrentService.GenerateMac")
	return r
}

// signSDK signs with the signer of the AWS SDK.
func signSDK(tb testing.TB, r *http.Request, body []byte, at time.Time) {
	tb.Helper()
	hash := sha256.Sum256(body)
	err := v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: accessKeyID, SecretAccessKey: secret},
		r, hex.EncodeToString(hash[:]), "kms", "us-east-1", at)
	require.NoError(tb, err)
}

// wire writes the request as it goes over the network.
func wire(tb testing.TB, r *http.Request) []byte {
	tb.Helper()
	var b bytes.Buffer
	require.NoError(tb, r.Write(&b))
	return b.Bytes()
}

// receive reads a request as a server does.
func receive(data []byte) (*http.Request, []byte, error) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(r.Body)
	return r, body, err
}

// signedRequest returns a request signed by the SDK, as a server reads it.
func signedRequest(tb testing.TB) (*http.Request, []byte) {
	tb.Helper()
	r := newRequest(tb, sampleBody)
	signSDK(tb, r, []byte(sampleBody), noon)
	received, body, err := receive(wire(tb, r))
	require.NoError(tb, err)
	return received, body
}

// signing signs requests by hand, also such that no SDK makes. Every refusal that is tested with it would pass but for the
// one thing that is wrong with the request.
type signing struct {
	accessKeyID   string
	date          string
	region        string
	service       string
	terminator    string
	timestamp     string
	signedHeaders string
	payload       string
	query         string
}

func newSigning() *signing {
	hash := sha256.Sum256([]byte(sampleBody))
	return &signing{
		accessKeyID: accessKeyID, date: "20250102", region: "us-east-1", service: "kms", terminator: "aws4_request",
		timestamp: "20250102T120000Z", signedHeaders: "content-type;host;x-amz-date;x-amz-target",
		payload: hex.EncodeToString(hash[:]),
	}
}

func (s *signing) signature(r *http.Request) string {
	canonical := r.Method + "\n/\n" + s.query + "\n"
	for name := range strings.SplitSeq(s.signedHeaders, ";") {
		value := strings.Join(r.Header.Values(name), ",")
		if strings.EqualFold(name, "host") {
			value = r.Host
		}
		canonical += name + ":" + value + "\n"
	}
	canonical += "\n" + s.signedHeaders + "\n" + s.payload
	hash := sha256.Sum256([]byte(canonical))
	key := sigv4.SigningKey(secret, s.date, s.region, s.service)
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte("AWS4-HMAC-SHA256\n" + s.timestamp + "\n" + s.scope() + "\n" + hex.EncodeToString(hash[:])))
	return hex.EncodeToString(mac.Sum(nil))
}

func (s *signing) scope() string {
	return strings.Join([]string{s.date, s.region, s.service, s.terminator}, "/")
}

func (s *signing) authorize(r *http.Request) {
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+s.accessKeyID+"/"+s.scope()+", SignedHeaders="+
		s.signedHeaders+", Signature="+s.signature(r))
}

// datedRequest returns a request without an Authorization header.
func datedRequest(tb testing.TB) *http.Request {
	tb.Helper()
	r := newRequest(tb, sampleBody)
	r.Header.Set("X-Amz-Date", "20250102T120000Z")
	return r
}

// requireRefusal checks code and text, and that the error says no more than it should.
func requireRefusal(tb testing.TB, err error, code, message string) {
	tb.Helper()
	var refusal *sigv4.Error
	require.True(tb, errors.As(err, &refusal), "got %v", err)
	assert.Equal(tb, code, refusal.Code)
	assert.Equal(tb, message, refusal.Message)
	assert.Equal(tb, code+": "+message, err.Error())
	assert.NotEmpty(tb, refusal.Hint())
}
