package kmstest

import (
	"context"
	"net"
	"net/http"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/server"
)

// Server is a running server on loopback with one access key, which is the account root's. It is safe for concurrent use.
type Server struct {
	// URL is the endpoint of the API: http://127.0.0.1:PORT.
	URL string
	// AdminURL is where /healthz, /readyz and /metrics are.
	AdminURL string
	// Region is the one region.
	Region string
	// AccessKeyID is what requests are signed with; see SecretAccessKey.
	AccessKeyID string

	bridge *pkcs11kms.Bridge
	secret func() string // a function, so that an assertion that prints the struct shows no secret
	http   *http.Client
	close  func() error
}

// NewServer starts a server on a token and a store of its own. It is stopped, and all is gone, when the test ends.
func NewServer(tb TB, opts ...Option) *Server {
	tb.Helper()
	set := settingsOf(opts)
	b := openBridge(tb, set)
	key, err := b.IAM().As(b.Root()).CreateAccessKey(context.Background(), iam.PrincipalName{})
	if err != nil {
		tb.Fatalf("making an access key: %v", err)
	}
	s := &Server{
		Region: b.Regions()[0], AccessKeyID: key.ID, bridge: b,
		secret: func() string { return key.Secret },
		http:   &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	if err := s.start(set.options); err != nil {
		tb.Fatalf("starting the server: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("stopping the server: %v", err)
		}
	})
	return s
}

// start runs the server in a goroutine that s.close ends and waits for.
func (s *Server) start(o server.Options) error {
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	listen := server.Listen{API: "127.0.0.1:0", Admin: "127.0.0.1:0", Ready: func(api, admin net.Addr) {
		s.URL, s.AdminURL = "http://"+api.String(), "http://"+admin.String()
		close(ready)
	}}
	go func() { ended <- server.New(s.bridge, o).Run(ctx, listen) }()
	s.close = sync.OnceValue(func() error {
		cancel()
		// Connections that were opened and not used would hold the server up.
		s.http.CloseIdleConnections()
		return <-ended
	})
	select {
	case <-ready:
		return nil
	case err := <-ended:
		cancel()
		return err
	}
}

// Close stops the server before the test ends: requests under way are finished. Closing twice does nothing more. The
// Bridge stays open.
func (s *Server) Close() error { return s.close() }

// SecretAccessKey is the secret of AccessKeyID.
func (s *Server) SecretAccessKey() string { return s.secret() }

// Bridge is what the server works on: for access keys, for clients that work in process, for counts.
func (s *Server) Bridge() *pkcs11kms.Bridge { return s.bridge }

// Config is a configuration of the AWS SDK for this server, for kms.NewFromConfig. It reads nothing of the environment.
func (s *Server) Config() aws.Config {
	return aws.Config{
		Region:       s.Region,
		BaseEndpoint: aws.String(s.URL),
		Credentials:  credentials.NewStaticCredentialsProvider(s.AccessKeyID, s.secret(), ""),
		HTTPClient:   s.http,
	}
}

// Client is a client of the AWS SDK for this server.
func (s *Server) Client() *kms.Client { return kms.NewFromConfig(s.Config()) }

// Env is what a program that uses an AWS SDK, such as the aws CLI, needs in its environment to talk to this server and to
// nobody else. Clients that do not know AWS_ENDPOINT_URL_KMS need --endpoint-url with URL.
func (s *Server) Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + s.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY=" + s.secret(),
		"AWS_SESSION_TOKEN=",
		"AWS_REGION=" + s.Region,
		"AWS_DEFAULT_REGION=" + s.Region,
		"AWS_ENDPOINT_URL_KMS=" + s.URL,
		"AWS_EC2_METADATA_DISABLED=true",
	}
}
