package server

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// identity is who signed a request, and for which region.
type identity struct {
	caller    pkcs11kms.Caller
	accessKey string
	region    string
}

func (s *Server) newVerifier(service *service, o Options) *sigv4.Verifier[identity] {
	regions := s.bridge.Regions()
	if service.global && !slices.Contains(regions, globalRegion) {
		regions = append(slices.Clip(regions), globalRegion)
	}
	return &sigv4.Verifier[identity]{Service: service.signingName, Regions: regions, Skew: o.Skew, Now: o.Now, Lookup: s.lookup}
}

// globalRegion is what clients sign requests for where a service has one endpoint for all regions. With an endpoint of their own some sign
// for their own region instead.
const globalRegion = "us-east-1"

// lookup finds the signing key of an access key: with a session token that of a session, and without one no session's.
func (s *Server) lookup(ctx context.Context, claim *sigv4.Claim) (key sigv4.Key, who identity, err error) {
	var caller pkcs11kms.Caller
	switch {
	case claim.SessionToken != "":
		key, caller, err = s.bridge.SessionKey(ctx, claim.AccessKeyID, claim.SessionToken, claim.Date, claim.Region, claim.Service)
	case iam.IsSessionKey(claim.AccessKeyID):
		err = iam.ErrUnknownAccessKey
	default:
		key, caller, err = s.bridge.SigningKey(ctx, claim.AccessKeyID, claim.Date, claim.Region, claim.Service)
	}
	switch {
	case errors.Is(err, iam.ErrUnknownAccessKey):
		err = sigv4.ErrUnknownKey
	case errors.Is(err, iam.ErrExpiredToken):
		err = sigv4.ErrTokenExpired
	}
	return key, identity{caller: caller, accessKey: claim.AccessKeyID, region: claim.Region}, err
}

// authenticate reads the body and returns it with the client of whoever signed the request. Strangers are refused before
// the body is read.
func (s *Server) authenticate(ctx context.Context, r *http.Request, x *exchange) (*pkcs11kms.Client, []byte, error) {
	begun, err := s.verifiers[x.service].Begin(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	x.claimed = begun.Claimed().accessKey
	body, err := s.readBody(r, x)
	if err != nil {
		return nil, nil, err
	}
	who, err := begun.Finish(body)
	if err != nil {
		return nil, nil, err
	}
	if !slices.Contains(s.bridge.Regions(), who.region) {
		who.region = "" // the default one: of a service that has no regions
	}
	client, err := s.bridge.Client(who.region)
	if err != nil {
		return nil, nil, err
	}
	conn := connectionOf(r)
	conn.RequestID, conn.AccessKeyID = x.id, who.accessKey
	client = client.As(who.caller.From(conn))
	if err := x.conn.admit(); err != nil {
		return nil, nil, client.Refused(ctx, x.service.signingName, x.op, nil, err)
	}
	x.accessKey, x.caller = who.accessKey, who.caller.ARN()
	s.bridge.AccessKeyUsed(who.caller, who.accessKey, client.Region())
	x.client = client
	return client, body, nil
}

// connectionOf is what policies may know of a request's connection. Headers that a proxy sets are not believed: anybody can
// set them.
func connectionOf(r *http.Request) pkcs11kms.Connection {
	conn := pkcs11kms.Connection{TLS: r.TLS != nil, UserAgent: r.UserAgent(), Host: r.Host}
	if r.TLS != nil {
		conn.TLSVersion, conn.CipherSuite = r.TLS.Version, r.TLS.CipherSuite
	}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		conn.SourceIP = peer.Addr().Unmap()
	}
	return conn
}
