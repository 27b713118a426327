package pkcs11kms

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"regexp"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// A grant token names a grant: its account and id, and a nonce, with a MAC of them by a key that the grant's record keeps. Every
// CreateGrant returns another one, all of them are worth the same, and none is stored. It gives nothing that the grant does not give
// without it: here a grant counts at once. So all that an operation does with a token is to refuse one that names no grant.

// The parts of a token, one behind the other.
const (
	tokenVersion = 1
	accountBytes = 12
	idBytes      = 32
	nonceBytes   = 16
	signedBytes  = 1 + accountBytes + idBytes + nonceBytes
	tokenBytes   = signedBytes + sha256.Size
)

// newGrantToken makes a token of a grant.
func newGrantToken(g keystore.Grant) string {
	raw := append([]byte{tokenVersion}, g.Account...)
	id, err := hex.DecodeString(g.ID)
	if err != nil {
		panic(err) // it was made by us, or checked when its record was read
	}
	nonce := make([]byte, nonceBytes)
	rand.Read(nonce) // never fails, see crypto/rand
	raw = append(append(raw, id...), nonce...)
	return base64.RawURLEncoding.EncodeToString(append(raw, tokenMAC(g, raw)...))
}

func tokenMAC(g keystore.Grant, signed []byte) []byte {
	mac := hmac.New(sha256.New, g.TokenKey)
	mac.Write([]byte("grant token of " + g.Region + "\x00"))
	mac.Write(signed)
	return mac.Sum(nil)
}

var accountText = regexp.MustCompile(`^[0-9]{12}$`)

// grantOfToken reads the grant in the Client's region that a token names. InvalidGrantTokenException when there is none (any more), or when
// the token was not made by this service.
func (c *Client) grantOfToken(ctx context.Context, token string) (*grantRecord, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	// The decoder passes over line ends.
	if err != nil || len(raw) != tokenBytes || len(token) != base64.RawURLEncoding.EncodedLen(tokenBytes) || raw[0] != tokenVersion {
		return nil, apierr.InvalidGrantToken()
	}
	signed, account := raw[:signedBytes], string(raw[1:1+accountBytes])
	if !accountText.MatchString(account) {
		return nil, apierr.InvalidGrantToken()
	}
	id := hex.EncodeToString(raw[1+accountBytes : 1+accountBytes+idBytes])
	grant, err := records.CachedOrFresh(ctx, c.bridge.core.Cache, keystore.GrantRef(c.region.Name, account, id), decodeGrant)
	if errors.Is(err, keystore.ErrNotFound) || err == nil && !hmac.Equal(raw[signedBytes:], tokenMAC(grant.Grant, signed)) {
		return nil, apierr.InvalidGrantToken()
	}
	return grant, err
}

// checkGrantTokens refuses a request with a token that is worth nothing. One of another key, or for somebody else, changes nothing.
func (c *Client) checkGrantTokens(ctx context.Context, tokens []string) error {
	for _, token := range tokens {
		if _, err := c.grantOfToken(ctx, token); err != nil {
			return err
		}
	}
	return nil
}
