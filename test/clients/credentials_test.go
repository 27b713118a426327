package clients

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
	"github.com/pkcs11kms/bridge/pkcs11kms/server"
)

// TestCredentials: what each client reports when the server does not take its signature.
func TestCredentials(t *testing.T) {
	srv := newServer(t)
	inactive, err := asRoot(srv.Bridge()).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	require.NoError(t, asRoot(srv.Bridge()).UpdateAccessKey(t.Context(), iam.PrincipalName{}, inactive.ID, keystore.AccessKeyInactive))

	const unknown = "UnrecognizedClientException"
	const unknownText = "The security token included in the request is invalid."
	cases := []struct {
		name       string
		change     func(*target)
		code, text string
	}{
		{"wrong secret", func(to *target) { to.Secret = strings.Repeat("x", 40) }, "InvalidSignatureException",
			"The request signature we calculated does not match the signature you provided."},
		{"unknown access key", func(to *target) { to.AccessKey = "AKIA" + strings.Repeat("7", 16) }, unknown, unknownText},
		{"inactive access key", func(to *target) { to.AccessKey, to.Secret = inactive.ID, inactive.Secret }, unknown, unknownText},
		{"wrong region", func(to *target) { to.Region = "eu-west-3" }, "InvalidSignatureException",
			"Credential should be scoped to a valid region."},
	}
	onEachClient(t, func(t *testing.T, c client) {
		for _, test := range cases {
			t.Run(test.name, func(t *testing.T) {
				to := targetOf(srv)
				test.change(&to)
				c.refused(t, c.do(t, to, "ListKeys", members{"Limit": 10}), test.code, test.text)
			})
		}
	})
}

// clockDifference is more than the five minutes that the server allows.
const clockDifference = 10 * time.Minute

// skewed starts an API on the server's Bridge whose clock is off, and counts the requests it gets. For a client that is
// the same as a clock of its own that is off the other way: it knows the server's by the Date of the answers.
func skewed(t *testing.T, srv *kmstest.Server, by time.Duration) (to target, requests *atomic.Int32) {
	now := func() time.Time { return time.Now().Add(by) }
	api := server.New(srv.Bridge(), server.Options{Now: now})
	requests = new(atomic.Int32)
	off := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		w.Header().Set("Date", now().UTC().Format(http.TimeFormat))
		api.ServeHTTP(w, r)
	}))
	t.Cleanup(off.Close)
	to = targetOf(srv)
	to.Endpoint = off.URL
	return to, requests
}

// TestClockSkew: clients that follow the server's clock are refused once and sign again; the others report it.
func TestClockSkew(t *testing.T) {
	srv := newServer(t)
	cases := []struct {
		name string
		by   time.Duration
		text string
	}{
		{"client behind", clockDifference, "Signature expired: "},
		{"client ahead", -clockDifference, "Signature not yet current: "},
	}
	onEachClient(t, func(t *testing.T, c client) {
		for _, test := range cases {
			t.Run(test.name, func(t *testing.T) {
				to, requests := skewed(t, srv, test.by)
				got := c.do(t, to, "ListKeys", members{"Limit": 10})
				if c.followsClock {
					require.Nil(t, got.Refusal)
					require.EqualValues(t, 2, requests.Load())
					return
				}
				c.refused(t, got, "InvalidSignatureException", test.text)
				require.EqualValues(t, 1, requests.Load())
			})
		}
	})
}

// TestEndpointVariable: newer SDKs need no code that knows of this server.
func TestEndpointVariable(t *testing.T) {
	srv := newServer(t)
	for _, variable := range append(environment(t), srv.Env()...) {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	t.Setenv("AWS_PROFILE", "")
	require.NotEmpty(t, os.Getenv("AWS_ENDPOINT_URL_KMS"))
	cfg, err := config.LoadDefaultConfig(t.Context())
	require.NoError(t, err)
	key := kmstest.MustCreateKey(t, kms.NewFromConfig(cfg), "HMAC_256")
	_, err = inProcess(t, srv).DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
}
