package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// knownID is a key whose value the test knows: every MAC can be checked.
const knownID = "1234abcd-12ab-34cd-56ef-1234567890ab"

func newKnownFixture(t *testing.T) *fixture {
	return newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) {
		k := keystore.Key{Region: testRegion, Account: testAccount, ID: knownID, State: keystore.Enabled, Spec: "HMAC_256",
			Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", Created: goldenTime, CKAID: rfcKey(t, cfg)}
		_, err := cfg.Store.Commit(t.Context(), k.Put(0))
		require.NoError(t, err)
	})
}

// exchangeKind is a request that can be sent again and again, and what must come back.
type exchangeKind struct {
	request *http.Request
	status  int
	answer  string // a part of it
}

// again returns the request with a fresh body.
func (k exchangeKind) again() *http.Request {
	r := k.request.Clone(context.Background())
	r.Body, _ = k.request.GetBody() // of a strings.Reader: never fails
	return r
}

// check compares an answer with what must come back.
func (k exchangeKind) check(res *http.Response) error {
	body, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	if res.StatusCode != k.status || !strings.Contains(string(body), k.answer) {
		return fmt.Errorf("answered %d %s to a request that is to be answered %d %s", res.StatusCode, body, k.status, k.answer)
	}
	return nil
}

// good are requests of one worker that succeed.
func (f *fixture) good(t *testing.T, url string, worker int) []exchangeKind {
	message := fmt.Appendf(nil, "message of worker %d", worker)
	h := hmac.New(sha256.New, bytes.Repeat([]byte{0xaa}, 131))
	h.Write(message)
	mac := base64.StdEncoding.EncodeToString(h.Sum(nil))
	members := `"KeyId":"` + knownID + `","MacAlgorithm":"HMAC_SHA_256","Message":"` + base64.StdEncoding.EncodeToString(message) + `"`
	return []exchangeKind{
		{f.request(t, url, "GenerateMac", "{"+members+"}"), 200, `"Mac":"` + mac + `"`},
		{f.request(t, url, "VerifyMac", "{"+members+`,"Mac":"`+mac+`"}`), 200, `"MacValid":true`},
		{f.request(t, url, "DescribeKey", `{"KeyId":"`+knownID+`"}`), 200, `"KeyId":"` + knownID + `"`},
	}
}

// bad are requests that are refused, each for another reason.
func (f *fixture) bad(t *testing.T, url string) []exchangeKind {
	members := `"KeyId":"` + knownID + `","MacAlgorithm":"HMAC_SHA_256","Message":"AAAA"`
	malformed, unsigned := f.request(t, url, "ListKeys", "{}"), f.request(t, url, "ListKeys", "{}")
	malformed.Header.Set("Authorization", strings.Replace(malformed.Header.Get("Authorization"), "Credential=", "Credential:", 1))
	unsigned.Header.Del("Authorization")
	stranger := f.request(t, url, "ListKeys", "{}")
	stranger.Header.Set("Authorization", replaceKeyID(stranger.Header.Get("Authorization"), f.key.ID))
	altered := f.request(t, url, "ListKeys", "{}")
	altered.Header.Set("X-Amz-Target", targetPrefix+"DescribeKey")
	return []exchangeKind{
		{f.request(t, url, "VerifyMac", "{"+members+`,"Mac":"AAAA"}`), 400, `{"__type":"KMSInvalidMacException"}`},
		{f.request(t, url, "GenerateMac", "{"+members), 400, "SerializationException"},
		{f.request(t, url, "DescribeKey", `{"KeyId":"none"}`), 400, "NotFoundException"},
		{f.request(t, url, "ReplicateKey", wellFormed(t, "ReplicateKey")), 400, "UnsupportedOperationException"},
		{f.request(t, url, "Nothing", "{}"), 400, "UnknownOperationException"},
		{unsigned, 400, "MissingAuthenticationTokenException"},
		{stranger, 400, "UnrecognizedClientException"},
		{altered, 400, "InvalidSignatureException"},
		{malformed, 400, "IncompleteSignatureException"},
	}
}

// sendSlowly sends the first part of a request, lets another whole exchange happen, and sends the rest.
func (k exchangeKind) sendSlowly(conn io.ReadWriter, cut int, meanwhile func() error) error {
	var whole bytes.Buffer
	if err := k.again().Write(&whole); err != nil {
		return err
	}
	text := whole.Bytes()
	cut %= len(text)
	if _, err := conn.Write(text[:cut]); err != nil {
		return err
	}
	err := meanwhile()
	_, wErr := conn.Write(text[cut:])
	if err = errors.Join(err, wErr); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), k.request)
	if err != nil {
		return err
	}
	return k.check(res)
}

// Good, bad and slow clients at once: every answer is the right one.
func TestMixedLoad(t *testing.T) {
	const workers, requests = 64, 200
	f := newKnownFixture(t)
	r := f.run(t, Listen{})
	bad := f.bad(t, r.url)
	var sent atomic.Int64
	var wg sync.WaitGroup
	for worker := range workers {
		good := f.good(t, r.url, worker)
		kinds := good
		if worker%4 == 3 {
			kinds = append(append([]exchangeKind{}, good...), bad...)
		}
		slow := worker%8 == 0
		conn := dial(t, r)
		client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
		t.Cleanup(client.CloseIdleConnections)
		do := func(k exchangeKind) error {
			sent.Add(1)
			res, err := client.Do(k.again())
			if err != nil {
				return err
			}
			return k.check(res)
		}
		wg.Go(func() {
			for i := 0; i < requests; i++ {
				k := kinds[i%len(kinds)]
				var err error
				if slow {
					sent.Add(1)
					i++
					err = k.sendSlowly(conn, worker+7*i, func() error { return do(good[i%len(good)]) })
				} else {
					err = do(k)
				}
				if !assert.NoError(t, err, "worker %d, request %d", worker, i) {
					return
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, workers*requests, sent.Load())
	counted := func() (n float64) {
		for name, value := range scrape(t, f, r) {
			if strings.HasPrefix(name, "pkcs11kms_requests_total") {
				require.NotContains(t, name, "KMSInternal")
				n += value
			}
		}
		return n
	}
	require.Eventually(t, func() bool { return counted() == workers*requests }, patience, 10*time.Millisecond)
}

// A graceful stop in the middle of the work loses nothing that was acknowledged.
func TestStopUnderLoad(t *testing.T) {
	const workers, enough = 16, 60
	f := newKnownFixture(t)
	r := f.run(t, Listen{Grace: patience})
	var acknowledged sync.Map
	var count atomic.Int64
	var wg sync.WaitGroup
	for worker := range workers {
		create := exchangeKind{f.request(t, r.url, "CreateKey", `{"KeySpec":"HMAC_256","KeyUsage":"GENERATE_VERIFY_MAC"}`), 200, "KeyMetadata"}
		good := f.good(t, r.url, worker)
		client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
		t.Cleanup(client.CloseIdleConnections)
		wg.Go(func() {
			for i := 0; ; i++ {
				res, err := client.Do(good[i%len(good)].again())
				if err != nil {
					return // the server has stopped
				}
				assert.NoError(t, good[i%len(good)].check(res), "what is answered at all is answered rightly and whole")
				if res, err = client.Do(create.again()); err != nil {
					return
				}
				var out struct{ KeyMetadata struct{ KeyId string } }
				err = json.NewDecoder(res.Body).Decode(&out)
				_ = res.Body.Close() // it has been read
				if res.StatusCode != http.StatusOK {
					continue // nothing was acknowledged
				}
				if !assert.NoError(t, err) || !assert.NotEmpty(t, out.KeyMetadata.KeyId) {
					return
				}
				acknowledged.Store(out.KeyMetadata.KeyId, true)
				if count.Add(1) == enough {
					r.stop()
				}
			}
		})
	}
	wg.Wait()
	<-r.ended
	require.NoError(t, r.err)
	require.GreaterOrEqual(t, count.Load(), int64(enough))
	library := f.library(t)
	acknowledged.Range(func(id, _ any) bool {
		keyID := id.(string)
		_, err := library.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: &keyID, MacAlgorithm: "HMAC_SHA_256", Message: []byte("m")})
		return assert.NoError(t, err, "an acknowledged key")
	})
}
