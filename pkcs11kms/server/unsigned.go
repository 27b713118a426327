package server

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/awsquery"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/fairshare"
)

// One operation is asked for without a signature: its token proves who asks. What anybody may ask for costs a bounded part of the machine:
// a bucket for each address, and one for all of them, before anything is read.

const webIdentity = "AssumeRoleWithWebIdentity"

const (
	maxUnsigned = 64 << 10 // bytes of a body: a token, a policy and the rest, with % before each second character

	unsignedPerPeer, unsignedPerPeerAtOnce = 20, 60 // a second, of an address
	unsignedPerSecond                      = 500    // of all of them
	maxUnsignedPeers                       = 4096
)

// unsignedCalls count the unsigned calls. The addresses that were not heard of for longest are forgotten.
type unsignedCalls struct {
	all *rate.Limiter

	mu    sync.Mutex // guards peers
	peers *simplelru.LRU[fairshare.Peer, *rate.Limiter]
}

func newUnsignedCalls() *unsignedCalls {
	peers, err := simplelru.NewLRU[fairshare.Peer, *rate.Limiter](maxUnsignedPeers, nil)
	if err != nil {
		panic(err) // it refuses a size of 0
	}
	return &unsignedCalls{all: rate.NewLimiter(unsignedPerSecond, unsignedPerSecond), peers: peers}
}

// allow takes one call of an address. Where the address has had its share, it takes nothing from the others.
func (u *unsignedCalls) allow(address string) bool {
	peer := fairshare.PeerOf(address)
	u.mu.Lock()
	limiter, ok := u.peers.Get(peer)
	if !ok {
		limiter = rate.NewLimiter(unsignedPerPeer, unsignedPerPeerAtOnce)
		u.peers.Add(peer, limiter)
	}
	u.mu.Unlock()
	return limiter.Allow() && u.all.Allow()
}

// mayBeUnsigned tells whether a request can be one for the operation that needs no signature.
func (s *Server) mayBeUnsigned(r *http.Request) bool {
	return r.URL.Path == "/" && r.URL.RawQuery == "" && len(r.Header["Authorization"]) == 0 && isForm(r) &&
		slices.Contains(s.services, securityTokens)
}

var errUnsignedTooLarge = &smithy.GenericAPIError{Code: errTooLarge.Code, Fault: smithy.FaultClient,
	Message: "The body of a request without a signature is larger than 65536 bytes."}

// answerUnsigned answers a request without a signature, which nobody is known to have sent.
func (s *Server) answerUnsigned(r *http.Request, x *exchange) ([]byte, error) {
	x.service = securityTokens
	if r.ContentLength > maxUnsigned {
		return nil, errUnsignedTooLarge
	}
	if !s.unsigned.allow(r.RemoteAddr) {
		return nil, throttled("Rate exceeded")
	}
	r.Body = io.NopCloser(io.LimitReader(r.Body, maxUnsigned+1))
	body, err := s.readBody(r, x)
	if err != nil {
		return nil, err
	}
	if len(body) > maxUnsigned {
		return nil, errUnsignedTooLarge
	}
	call, err := awsquery.Parse(body)
	if err != nil || call.Action != webIdentity {
		x.service = keyManagement
		r.Body = io.NopCloser(bytes.NewReader(body))
		return nil, s.misdirect(r)
	}
	x.op = webIdentity
	client, err := s.bridge.Client("")
	if err != nil {
		return nil, err
	}
	conn := connectionOf(r)
	conn.RequestID = x.id
	ctx, cancel := context.WithTimeout(r.Context(), s.timeout)
	defer cancel()
	out, err := securityTokens.operations[webIdentity](ctx, client.As(pkcs11kms.Caller{}.From(conn)), body, x)
	if early, ok := err.(*undone); ok {
		err = early.err // nobody has asked for anything that could be recorded
	}
	return out, err
}

// The input and the output, with the members of the model.
type (
	webIdentityInput struct {
		RoleArn          *string `query:"required"`
		RoleSessionName  *string `query:"required"`
		WebIdentityToken *string `query:"required"`
		ProviderId       *string
		PolicyArns       []policyShape
		Policy           *string
		DurationSeconds  *int32
	}
	webIdentityOutput struct {
		Credentials                 *credentialsShape
		SubjectFromWebIdentityToken string
		AssumedRoleUser             *assumedRoleUser
		PackedPolicySize            *int32
		Provider                    string
		Audience                    string
	}
)

func assumeRoleWithWebIdentity(ctx context.Context, c *pkcs11kms.Client, in *webIdentityInput) (*webIdentityOutput, error) {
	if in.ProviderId != nil {
		return nil, validation("ProviderId is not supported: tokens are those of OpenID Connect providers.")
	}
	asked := iam.WebIdentityInput{RoleARN: *in.RoleArn, SessionName: *in.RoleSessionName, Token: *in.WebIdentityToken, Policy: in.Policy,
		DurationSeconds: in.DurationSeconds}
	for _, one := range in.PolicyArns {
		asked.PolicyARNs = append(asked.PolicyARNs, aws.ToString(one.Arn))
	}
	made, err := c.IAM().AssumeRoleWithWebIdentity(ctx, asked)
	return &webIdentityOutput{
		Credentials:                 &credentialsShape{made.AccessKeyID, made.SecretAccessKey, made.SessionToken, made.Expiration},
		SubjectFromWebIdentityToken: made.Subject, AssumedRoleUser: &assumedRoleUser{made.ID, made.ARN},
		PackedPolicySize: made.PackedPolicySize, Provider: made.Provider, Audience: made.Audience,
	}, err
}
