package sigv4_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSDKSigned verifies random requests that the SDK's signer signed, after a trip over the wire.
func TestSDKSigned(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 4))
	verifier := newVerifier()
	for i := range 2000 {
		r, body := randomRequest(t, random)
		signSDK(t, r, body, noon)
		received, receivedBody, err := receive(wire(t, r))
		require.NoError(t, err)
		require.Equal(t, body, receivedBody)
		who, err := verifier.Verify(context.Background(), received, receivedBody)
		require.NoError(t, err, "request %d: %s %q %q", i, received.Method, received.RequestURI, received.Header)
		assert.Equal(t, "owner of "+accessKeyID, who)
	}
}

// randomRequest makes a request beyond what KMS clients send. The SDK's signer does not remove dot segments or empty ones
// from a path, so there are none; the published suite has them.
func randomRequest(t *testing.T, random *rand.Rand) (*http.Request, []byte) {
	t.Helper()
	body := []byte(randomText(random, 300))
	u := url.URL{Scheme: "http", Host: "kms.example:4599", Path: "/"}
	for range random.IntN(4) {
		u.Path += "s" + strings.ReplaceAll(randomText(random, 8), "/", "") + "/"
	}
	if random.IntN(2) == 0 {
		query := url.Values{}
		for range random.IntN(6) {
			query.Add(randomText(random, 4), randomText(random, 8))
		}
		u.RawQuery = query.Encode()
	}
	method := []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete}[random.IntN(4)]
	r, err := http.NewRequest(method, u.String(), bytes.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("X-Amz-Target", "TrentService."+randomText(random, 12))
	for range random.IntN(8) {
		name := []string{"Custom", "Content-Type", "Accept", "Amz-Sdk-Request", "X-Custom_1"}[random.IntN(5)]
		r.Header.Add(name, randomText(random, 20))
	}
	return r, body
}

func randomText(random *rand.Rand, most int) string {
	const alphabet = "abcXYZ019   -_.~/?&=+%,;:@!$'()*[]é"
	letters := []rune(alphabet)
	text := make([]rune, random.IntN(most+1))
	for i := range text {
		text[i] = letters[random.IntN(len(letters))]
	}
	return string(text)
}

// TestAnyByteChanged changes a signed request on the wire one byte at a time. Every byte counts but those of the protocol
// version and the case of header names.
func TestAnyByteChanged(t *testing.T) {
	r := newRequest(t, sampleBody)
	r.URL.Path, r.URL.RawQuery = "/a/b", "p=q&p=r"
	r.Header.Set("User-Agent", "")
	signSDK(t, r, []byte(sampleBody), noon)
	message := wire(t, r)
	version := bytes.Index(message, []byte("HTTP/1.1"))
	verifier := newVerifier()
	accepted := func(data []byte) bool {
		received, body, err := receive(data)
		if err != nil {
			return false
		}
		_, err = verifier.Verify(context.Background(), received, body)
		return err == nil
	}
	require.True(t, accepted(message))
	for i := range message {
		if i >= version && i < version+len("HTTP/1.1") {
			continue
		}
		for _, flip := range []byte{1, 2, 0x20} {
			if flip == 0x20 && inHeaderName(message, i) {
				continue
			}
			changed := slices.Clone(message)
			changed[i] ^= flip
			assert.False(t, accepted(changed), "byte %d, bits %#x", i, flip)
		}
	}
}

// inHeaderName reports whether byte i of a message lies before the colon of a header line.
func inHeaderName(message []byte, i int) bool {
	end := bytes.Index(message, []byte("\r\n\r\n"))
	line := message[bytes.LastIndexByte(message[:i], '\n')+1:]
	first := bytes.IndexByte(message, '\n')
	return i > first && i < end && i < len(message)-len(line)+bytes.IndexByte(line, ':')
}

// TestAnyPartChanged exchanges whole parts of a signed request by others that are well formed.
func TestAnyPartChanged(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"method":          func(r *http.Request) { r.Method = http.MethodPut },
		"path":            func(r *http.Request) { r.RequestURI = "/other" },
		"query":           func(r *http.Request) { r.RequestURI = "/?a=b" },
		"empty parameter": func(r *http.Request) { r.RequestURI = "/?&" },
		"host":            func(r *http.Request) { r.Host = "127.0.0.1:4600" },
		"port":            func(r *http.Request) { r.Host = "127.0.0.1" },
		"target":          set("X-Amz-Target", "TrentService.DisableKey"),
		"target's case":   set("X-Amz-Target", "TrentService.generateMac"),
		"content type":    set("Content-Type", "application/x-amz-json-1.0"),
		"content length":  set("Content-Length", "1"),
		"second value":    func(r *http.Request) { r.Header.Add("Content-Type", "text/plain") },
		"removed header":  func(r *http.Request) { r.Header.Del("Content-Type") },
		"amz header":      set("X-Amz-Content-Sha256", strings.Repeat("0", 64)),
		"session token":   set("X-Amz-Security-Token", "t"),
		"date":            set("X-Amz-Date", "20250102T120001Z"),
		"access key":      resign(accessKeyID, "AKIDEXAMPLF"),
		"region":          resign("us-east-1", "eu-central-1"),
		"service":         resign("/kms/", "/sts/"),
		"scope date":      resign("/20250102/", "/20250103/"),
		"fewer names":     resign("content-type;", ""),
		"more names":      resign("content-type;", "accept;content-type;"),
		"algorithm":       resign("SHA256", "SHA512"),
	} {
		t.Run(name, func(t *testing.T) {
			r, body := signedRequest(t)
			change(r)
			_, err := newVerifier().Verify(context.Background(), r, body)
			var refusal *sigv4.Error
			require.ErrorAs(t, err, &refusal)
		})
	}
}

// TestOverTheNetwork shows that what signers sign reaches the verifier through net/http's server, by both of its protocols:
// Content-Length and Host, which net/http treats apart from other headers, among them.
func TestOverTheNetwork(t *testing.T) {
	verifier := newVerifier()
	verifier.Now = time.Now
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, err := body.ReadFrom(r.Body)
		if assert.NoError(t, err) {
			_, err = verifier.Verify(r.Context(), r, body.Bytes())
		}
		if !assert.NoError(t, err) {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	for _, http2 := range []bool{false, true} {
		client := server.Client()
		transport := client.Transport.(*http.Transport).Clone()
		transport.ForceAttemptHTTP2 = http2
		if !http2 {
			transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
		}
		defer transport.CloseIdleConnections()
		client.Transport = transport
		for _, path := range []string{"/", "/a%2Fb/$c%20d?x=%20&y=a%2Bb"} {
			r, err := http.NewRequest(http.MethodPost, server.URL+path, strings.NewReader(sampleBody))
			require.NoError(t, err)
			r.Header.Set("X-Amz-Target", "TrentService.GenerateMac")
			signSDK(t, r, []byte(sampleBody), time.Now())
			response, err := client.Do(r)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			assert.Equal(t, http.StatusOK, response.StatusCode)
			assert.Equal(t, http2, response.ProtoMajor == 2)
		}
	}
}
