package sigv4

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// DefaultSkew is how far client's and server's clocks may differ.
const DefaultSkew = 5 * time.Minute

// Verifier verifies requests. Its fields are set before the first use and not changed after; then it is safe for
// concurrent use, and calls Lookup concurrently.
type Verifier[Identity any] struct {
	// Service is the one service that requests must be signed for, such as "kms". Required.
	Service string
	// Regions are the regions that requests may be signed for. Required.
	Regions []string
	// Skew is how far the signature's time may be from now, in whole seconds, either way; a difference of exactly Skew
	// passes. Default: DefaultSkew.
	Skew time.Duration
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Lookup returns the signing key of the claim's access key id for its date, region and service, as SigningKey derives
	// it, and whoever the access key stands for. It must judge the claim's SessionToken too, also one that comes with a
	// long-term access key. ErrUnknownKey and ErrTokenExpired are answered to the client; other errors are returned
	// wrapped. The rest of the claim is not proved yet. Required.
	Lookup func(ctx context.Context, claim *Claim) (Key, Identity, error)
}

// Verify returns what Lookup said about the sender if the request is signed with its key. A refusal is an *Error; any
// other error is Lookup's.
func (v *Verifier[Identity]) Verify(ctx context.Context, r *http.Request, body []byte) (Identity, error) {
	begun, err := v.Begin(ctx, r)
	if err != nil {
		var nobody Identity
		return nobody, err
	}
	return begun.Finish(body)
}

// Begun is a request of which everything is checked that can be without its body. It proves nothing yet.
type Begun[Identity any] struct {
	claim     *Claim
	key       Key
	identity  Identity
	canonical []byte // the canonical request but for the payload hash
	declared  *[sha256.Size]byte
}

// Begin does everything that needs no body, Lookup included, so that a body need not be read for strangers.
func (v *Verifier[Identity]) Begin(ctx context.Context, r *http.Request) (*Begun[Identity], error) {
	claim, err := Parse(r)
	if err != nil {
		return nil, err
	}
	if err := v.checkTime(claim); err != nil {
		return nil, err
	}
	var signed signedHeaders
	if err := signed.collect(r, claim.SignedHeaders); err != nil {
		return nil, err
	}
	if err := v.checkScope(claim); err != nil {
		return nil, err
	}
	b := &Begun[Identity]{claim: claim}
	if b.declared, err = declaredPayload(r.Header); err != nil {
		return nil, err
	}
	// Room for the usual request.
	if b.canonical, err = appendCanonical(make([]byte, 0, 1024), r, &signed); err != nil {
		return nil, err
	}
	if b.key, b.identity, err = v.lookup(ctx, claim); err != nil {
		return nil, err
	}
	return b, nil
}

// Claimed is whoever the request says has sent it: an identity that exists, and proves nothing. It is for logs.
func (b *Begun[Identity]) Claimed() Identity { return b.identity }

// Finish returns the sender if the signature is right for the body. It may be called once.
func (b *Begun[Identity]) Finish(body []byte) (Identity, error) {
	var nobody Identity
	payload := sha256.Sum256(body)
	canonical := hex.AppendEncode(b.canonical, payload[:])
	if !b.claim.signedBy(&b.key, sha256.Sum256(canonical)) {
		return nobody, mismatch()
	}
	if b.declared != nil && *b.declared != payload {
		return nobody, invalid("The provided 'x-amz-content-sha256' header does not match what was computed.", checkSecret)
	}
	return b.identity, nil
}

// checkTime compares with the clock in whole seconds, as signatures are dated.
func (v *Verifier[Identity]) checkTime(c *Claim) error {
	now, skew := time.Now, v.Skew
	if v.Now != nil {
		now = v.Now
	}
	if skew <= 0 {
		skew = DefaultSkew
	}
	current := now().UTC().Truncate(time.Second)
	switch ahead := c.Time.Sub(current); {
	case ahead < -skew:
		return expired(c, current, skew)
	case ahead > skew:
		return notYetCurrent(c, current, skew)
	}
	return nil
}

// checkScope reports everything that is wrong with the credential scope at once, as AWS does, without repeating the
// client's words. Which regions are right, AWS need not say: its endpoints have the region in their name. The
// blanks after full stops are AWS's.
func (v *Verifier[Identity]) checkScope(c *Claim) error {
	var wrong string
	if !slices.Contains(v.Regions, c.Region) {
		regions := slices.Sorted(slices.Values(v.Regions))
		wrong += "Credential should be scoped to a valid region. This endpoint answers for " + strings.Join(regions, ", ") + ". "
	}
	if c.Service != v.Service {
		wrong += "Credential should be scoped to correct service: '" + v.Service + "'. "
	}
	if c.terminator != terminator {
		wrong += "Credential should be scoped with a valid terminator: '" + terminator + "'. "
	}
	if day := c.timestamp[:len(c.Date)]; c.Date != day {
		wrong += "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '" +
			c.Date + "' != '" + day + "', from '" + c.timestamp + "'."
	}
	if wrong != "" {
		return invalid(wrong, checkScope)
	}
	return nil
}

// declaredPayload returns the hash in X-Amz-Content-Sha256, or nil without that header.
func declaredPayload(h http.Header) (*[sha256.Size]byte, error) {
	values := h["X-Amz-Content-Sha256"]
	if len(values) == 0 {
		return nil, nil
	}
	var declared [sha256.Size]byte
	if !decodeLowerHex(&declared, values[0]) {
		return nil, invalid("Header 'x-amz-content-sha256' must be the SHA-256 of the request's body; unsigned and streamed "+
			"payloads are not supported.", signWithSDK)
	}
	return &declared, nil
}

// lookup guards Lookup's result: a key of zeros that came without an error would let everybody in.
func (v *Verifier[Identity]) lookup(ctx context.Context, c *Claim) (key Key, identity Identity, err error) {
	key, identity, err = v.Lookup(ctx, c)
	switch {
	case errors.Is(err, ErrUnknownKey):
		err = unrecognized()
	case errors.Is(err, ErrTokenExpired):
		err = tokenExpired()
	case err != nil:
		err = fmt.Errorf("looking up the signing key: %w", err)
	case key == Key{}:
		err = errors.New("looking up the signing key: got an empty one")
	}
	return key, identity, err
}

// signedBy reports whether the claim's signature is the key's over the hash of the canonical request.
func (c *Claim) signedBy(key *Key, canonical [sha256.Size]byte) bool {
	stringToSign := make([]byte, 0, 256)
	stringToSign = append(stringToSign, algorithm+"\n"...)
	stringToSign = append(stringToSign, c.timestamp...)
	stringToSign = append(stringToSign, '\n')
	stringToSign = append(stringToSign, c.scope...)
	stringToSign = append(stringToSign, '\n')
	stringToSign = hex.AppendEncode(stringToSign, canonical[:])
	h := hmac.New(sha256.New, key[:])
	h.Write(stringToSign)
	var sum [sha256.Size]byte
	return subtle.ConstantTimeCompare(h.Sum(sum[:0]), c.signature[:]) == 1
}
