package sigv4_test

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"testing"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzParse feeds headers that net/http would not let through as well.
func FuzzParse(f *testing.F) {
	r, s := datedRequest(f), newSigning()
	s.authorize(r)
	f.Add(r.Header.Get("Authorization"), "20250102T120000Z", "", "")
	f.Add(r.Header.Get("Authorization"), "", "Thu, 02 Jan 2025 12:00:00 GMT", "a=b&c=%20")
	f.Add("AWS4-HMAC-SHA256 Credential=////, SignedHeaders=;, Signature=,", "20250102T120000.000Z", "x", "%")
	f.Add("Basic dTpw", "", "", "X-Amz-Signature=0")
	f.Fuzz(func(t *testing.T, authorization, amzDate, date, query string) {
		r := &http.Request{Method: http.MethodPost, Host: "h", URL: &url.URL{Path: "/", RawQuery: query}, Header: http.Header{
			"Authorization": {authorization}, "X-Amz-Date": {amzDate}, "Date": {date}}}
		claim, err := sigv4.Parse(r)
		if err != nil {
			var refusal *sigv4.Error
			require.ErrorAs(t, err, &refusal)
			require.Nil(t, claim)
			return
		}
		assert.Regexp(t, `^\w{1,128}$`, claim.AccessKeyID)
		assert.Regexp(t, `^[0-9]{8}$`, claim.Date)
		assert.Regexp(t, `^[^A-Z;\s]+(;[^A-Z;\s]+)*$`, claim.SignedHeaders)
	})
}

// FuzzVerify feeds whole requests. Nobody but the signers of the seeds knows the secret, so nothing else may pass: what
// passes must be a seed in all that was signed.
func FuzzVerify(f *testing.F) {
	r, body := signedRequest(f)
	want := signedParts(r, body)
	plain := newRequest(f, sampleBody)
	signSDK(f, plain, []byte(sampleBody), noon)
	f.Add(wire(f, plain))
	f.Add([]byte("POST /?a=%zz&b HTTP/1.1\r\nHost: h\r\nX-Amz-Date: 20250102T120000Z\r\nAuthorization: AWS4-HMAC-SHA256 " +
		"Credential=AKIDEXAMPLE/20250102/us-east-1/kms/aws4_request, SignedHeaders=host;x-amz-date, Signature=00\r\n\r\n"))
	f.Add([]byte("GET //./../a%20b/ HTTP/1.0\r\n\r\n"))
	verifier := newVerifier()
	f.Fuzz(func(t *testing.T, data []byte) {
		r, body, err := receive(data)
		if err != nil {
			t.Skip("not a request")
		}
		who, err := verifier.Verify(context.Background(), r, body)
		if err != nil {
			var refusal *sigv4.Error
			require.ErrorAs(t, err, &refusal)
			require.Empty(t, who)
			return
		}
		require.Equal(t, want, signedParts(r, body))
	})
}

// signedParts joins what the signature of the seed covers.
func signedParts(r *http.Request, body []byte) string {
	var b bytes.Buffer
	b.WriteString(r.Method + " " + r.Host + "\n")
	for _, name := range []string{"Content-Length", "Content-Type", "X-Amz-Date", "X-Amz-Target"} {
		b.WriteString(r.Header.Get(name) + "\n")
	}
	b.Write(body)
	return b.String()
}
