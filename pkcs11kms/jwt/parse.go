package jwt

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	gojwt "github.com/golang-jwt/jwt/v5"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/strictjson"
)

// MaxTokenBytes is the longest token that is made or looked at. HTTP servers take less in a header.
const MaxTokenBytes = 64 << 10

// parsed is a token taken apart. Nothing of it is verified.
type parsed struct {
	alg, kid  string
	hasKid    bool   // also if it is empty
	input     string // what is signed: header and claims in base64url, with the point between
	claims    []byte // one JSON object
	signature []byte
}

// reserved are the members of a header that decide how a token is verified.
var reserved = []string{"alg", "kid", "crit", "b64"}

// parse takes a token in the compact form of RFC 7515 apart, more strictly than golang-jwt does. Its errors are
// ErrInvalidToken and say nothing of the token's content but the alg.
func parse(token string) (*parsed, error) {
	if len(token) > MaxTokenBytes {
		return nil, invalidf(ErrTooLong, "%d bytes in place of %d at most", len(token), MaxTokenBytes)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, invalidf(gojwt.ErrTokenMalformed, "it is not three parts with points between")
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = decodeSegment(part); err != nil {
			return nil, invalidf(gojwt.ErrTokenMalformed, "its %s is %s", [...]string{"header", "payload", "signature"}[i], err)
		}
	}
	p := &parsed{input: parts[0] + "." + parts[1], claims: decoded[1], signature: decoded[2]}
	if err := p.readHeader(decoded[0]); err != nil {
		return nil, err
	}
	if err := checkClaims(p.claims); err != nil {
		return nil, invalidf(gojwt.ErrTokenMalformed, "its payload is %s", err)
	}
	return p, nil
}

var errNoBase64URL = errors.New("no base64url without padding")

func decodeSegment(part string) ([]byte, error) {
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil || strings.ContainsAny(part, "\r\n") { // which the decoder passes over
		return nil, errNoBase64URL
	}
	return decoded, nil
}

func (p *parsed) readHeader(text []byte) error {
	var header map[string]json.RawMessage // a struct would take "ALG" for "alg"
	if err := strictjson.Decode(text, &header); err != nil {
		return invalidf(gojwt.ErrTokenMalformed, "its header is %s", err)
	}
	for _, name := range []string{"crit", "b64"} {
		if _, ok := header[name]; ok {
			return invalidf(gojwt.ErrTokenUnverifiable, "its header has %s, and no such extension is understood here", name)
		}
	}
	_, p.hasKid = header["kid"]
	for name, target := range map[string]*string{"alg": &p.alg, "kid": &p.kid} {
		value, ok := header[name]
		if ok && (value[0] != '"' || json.Unmarshal(value, target) != nil) {
			return invalidf(gojwt.ErrTokenMalformed, "the %s of its header is no string", name)
		}
	}
	return nil
}

// timeClaims are the claims that are times.
var timeClaims = []string{"exp", "nbf", "iat"}

// timeOf reads a number of seconds since 1970.
func timeOf(text json.RawMessage) (seconds float64, ok bool) {
	const most = 1 << 53 // the numbers that JSON carries safely
	if len(text) == 0 || text[0] == 'n' || json.Unmarshal(text, &seconds) != nil {
		return 0, false
	}
	return seconds, seconds >= 0 && seconds <= most
}

// checkClaims tells what keeps a document from being the claims of a token: it must be one JSON object, and the times in it
// numbers that are times. golang-jwt would take an exp of 0 or null for none. No two members may differ in case alone:
// encoding/json puts both into the same field of a struct, so that SUB would replace the sub that others see.
func checkClaims(doc []byte) error {
	var claims map[string]json.RawMessage
	if err := strictjson.Decode(doc, &claims); err != nil {
		return err
	}
	for _, name := range timeClaims {
		text, ok := claims[name]
		if !ok {
			continue
		}
		if value, ok := timeOf(text); !ok || name == "exp" && value == 0 {
			return fmt.Errorf("a JSON object whose %s is no time in seconds", name)
		}
	}
	names := map[string]bool{}
	for name := range claims {
		folded := strings.Map(fold, name)
		if names[folded] {
			return errors.New("a JSON object with two members that differ in case alone")
		}
		names[folded] = true
	}
	return nil
}

// fold returns the first of the letters that encoding/json, and strings.EqualFold, take for the same.
func fold(r rune) rune {
	for {
		next := unicode.SimpleFold(r)
		if next <= r {
			return next
		}
		r = next
	}
}
