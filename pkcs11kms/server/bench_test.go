package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// answerOnly is an http.ResponseWriter that keeps the last answer.
type answerOnly struct {
	header http.Header
	status int
	body   []byte
}

func (a *answerOnly) Header() http.Header         { return a.header }
func (a *answerOnly) WriteHeader(status int)      { a.status = status }
func (a *answerOnly) Write(p []byte) (int, error) { a.body = p; return len(p), nil }

// BenchmarkServeHTTP measures a GenerateMac from the parsed head of its request to its answer, without net/http and a connection. Its
// allocations are what a request costs beside those of net/http.
func BenchmarkServeHTTP(b *testing.B) {
	f := newFixture(b, func(cfg *pkcs11kms.Config, o *Options) { o.Logger = nil })
	key := f.mustCreate(b, types.KeySpecHmac256)
	body := fmt.Sprintf(`{"KeyId":%q,"MacAlgorithm":"HMAC_SHA_256","Message":%q}`, *key.KeyId,
		base64.StdEncoding.EncodeToString(make([]byte, 32)))
	r := f.request(b, "http://127.0.0.1:4599/", "GenerateMac", body)
	r.Header.Set("Content-Length", strconv.Itoa(len(body))) // what a client sends of its own accord
	r.Host, r.RemoteAddr, r.RequestURI = "127.0.0.1:4599", "127.0.0.1:40000", "/"
	cancellable, cancel := context.WithCancel(b.Context()) // as those of net/http are
	defer cancel()
	r = r.WithContext(cancellable)
	input := bytes.NewReader([]byte(body))
	r.Body = io.NopCloser(input)
	w := &answerOnly{}
	b.ReportAllocs()
	for b.Loop() {
		input.Reset([]byte(body))
		w.header, w.status = http.Header{}, 0
		f.ServeHTTP(w, r)
		if w.status != http.StatusOK {
			b.Fatalf("%s", w.body)
		}
	}
}
