package jwt

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// SignerConfig configures a Signer. Client and KeyID are required.
type SignerConfig struct {
	Client Client
	// KeyID names the key: a key id, a key ARN, an alias name or an alias ARN.
	KeyID string
	// Method is the algorithm. Default: the key's own, RS256 for RSA; see MethodFor.
	Method *Method
	// Header holds further members of the header, such as "typ": "at+jwt" in place of "JWT". It must not have alg, kid, crit
	// or b64.
	Header map[string]any
	// Lifetime has exp put into the claims, which must not have one, that long from now, and iat unless they have it; both
	// in whole seconds. 0: claims are signed as they are. A token without exp is valid for as long as its key.
	Lifetime time.Duration
	// AllowAnyTimes has claims signed whose times make a token that nobody can use: an exp that has passed, an exp, nbf or
	// iat beyond the year 9999, which is one in milliseconds, an nbf that is not before exp. Otherwise they are ErrTimes.
	AllowAnyTimes bool
	// MaxAge is how long the answer to which key an alias points is used. Default: one minute. Whatever it is, kid and
	// signature are of one key; and when that key is disabled, gone or not allowed any more, KMS is asked again at once.
	MaxAge time.Duration
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// Signer makes tokens with one key, or with the key to which an alias points. Its producers need kms:DescribeKey and
// kms:GenerateMac or kms:Sign. It is safe for concurrent use.
type Signer struct {
	cfg      SignerConfig
	header   map[string]any
	resolved atomic.Pointer[resolved]
}

// resolved is the key of a Signer as of a time.
type resolved struct {
	key *Key
	at  time.Time
}

// NewSigner makes a Signer. KMS is not asked yet.
func NewSigner(cfg SignerConfig) (*Signer, error) {
	if cfg.Client == nil || cfg.KeyID == "" {
		return nil, errors.New("making a signer: Client and KeyID are required")
	}
	for name := range cfg.Header {
		// In whatever case: there are readers that take ALG for alg.
		if slices.ContainsFunc(reserved, func(own string) bool { return strings.EqualFold(own, name) }) {
			return nil, fmt.Errorf("making a signer: the header's %s is not for the caller to set", name)
		}
	}
	if cfg.Lifetime < 0 || cfg.Lifetime%time.Second != 0 {
		return nil, errors.New("making a signer: Lifetime is a number of seconds, and not negative")
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	header := map[string]any{"typ": "JWT"}
	maps.Copy(header, cfg.Header)
	return &Signer{cfg: cfg, header: header}, nil
}

// Sign makes one token: the short form of a Signer that is used once. See Signer.Sign.
func Sign(ctx context.Context, client Client, keyID string, claims any) (string, error) {
	s, err := NewSigner(SignerConfig{Client: client, KeyID: keyID})
	if err != nil {
		return "", err
	}
	return s.Sign(ctx, claims)
}

// Sign returns a token with the claims, which may be whatever encoding/json makes one object of: a map, a struct, the
// Claims of golang-jwt, a json.RawMessage. The header is alg, kid (the key id), typ, and what SignerConfig has. Errors of KMS
// are the SDK's own, with a text before.
func (s *Signer) Sign(ctx context.Context, claims any) (string, error) {
	payload, err := s.payload(claims)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrClaims, err)
	}
	known := s.resolved.Load()
	fresh := known != nil && between(known.at, s.cfg.Now(), s.cfg.MaxAge)
	if fresh {
		token, err := s.signWith(ctx, known.key, payload)
		if !unusable(err) && !denied(err) {
			return token, err
		}
	}
	now := s.cfg.Now()
	key, err := Resolve(ctx, s.cfg.Client, s.cfg.KeyID)
	if err != nil {
		return "", err
	}
	s.resolved.Store(&resolved{key, now})
	return s.signWith(ctx, key, payload)
}

// payload writes the claims.
func (s *Signer) payload(claims any) ([]byte, error) {
	text, err := marshal(claims)
	if err != nil {
		return nil, err
	}
	if err := checkClaims(text); err != nil {
		return nil, err
	}
	if s.cfg.Lifetime == 0 {
		return text, s.checkTimes(text)
	}
	var members map[string]json.RawMessage // so that what stands there keeps its form
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, err
	}
	if _, ok := members["exp"]; ok {
		return nil, errors.New("there is an exp already")
	}
	now := s.cfg.Now().Unix()
	if _, ok := members["iat"]; !ok {
		members["iat"] = strconv.AppendInt(nil, now, 10)
	}
	members["exp"] = strconv.AppendInt(nil, now+int64(s.cfg.Lifetime/time.Second), 10)
	if text, err = marshal(members); err != nil {
		return nil, err
	}
	if err := checkClaims(text); err != nil { // what was added may be there in another case
		return nil, err
	}
	return text, s.checkTimes(text)
}

// lastSecond is 9999-12-31T23:59:59Z: what is beyond that was meant in milliseconds.
const lastSecond = 253402300799

// checkTimes refuses times that no token can mean, of claims whose form was checked.
func (s *Signer) checkTimes(doc []byte) error {
	var claims map[string]json.RawMessage
	if err := json.Unmarshal(doc, &claims); err != nil || s.cfg.AllowAnyTimes {
		return err
	}
	times := map[string]float64{}
	for _, name := range timeClaims {
		value, ok := timeOf(claims[name])
		if ok && value > lastSecond {
			return fmt.Errorf("%w: %s is beyond the year 9999; it is in seconds, not in milliseconds", ErrTimes, name)
		}
		if ok {
			times[name] = value
		}
	}
	exp, ends := times["exp"]
	nbf, begins := times["nbf"]
	switch {
	case ends && exp <= float64(s.cfg.Now().UnixMilli())/1000:
		return fmt.Errorf("%w: exp has passed", ErrTimes)
	case ends && begins && nbf >= exp:
		return fmt.Errorf("%w: nbf is not before exp", ErrTimes)
	}
	return nil
}

// between tells whether now is not before a time and less than an age after it.
func between(from, now time.Time, age time.Duration) bool {
	passed := now.Sub(from)
	return passed >= 0 && passed < age
}

func (s *Signer) signWith(ctx context.Context, key *Key, payload []byte) (string, error) {
	method := s.cfg.Method
	if method == nil {
		var err error
		if method, err = MethodFor(key.spec); err != nil {
			return "", err
		}
	}
	header := maps.Clone(s.header)
	header["alg"], header["kid"] = method.name, key.id
	text, err := marshal(header)
	if err != nil {
		return "", fmt.Errorf("writing the header: %w", err)
	}
	input := encodeSegment(text) + "." + encodeSegment(payload)
	if len(input) > MaxTokenBytes-1024 { // which leaves room for any signature
		return "", fmt.Errorf("%w: header and claims are %d bytes in base64url", ErrTooLong, len(input))
	}
	signature, err := method.Sign(input, key.WithContext(ctx))
	if err != nil {
		return "", err
	}
	return input + "." + encodeSegment(signature), nil
}

func encodeSegment(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// marshal is json.Marshal that leaves <, > and & as they are.
func marshal(value any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return nil, err
	}
	return slices.Clip(bytes.TrimSuffix(buf.Bytes(), []byte("\n"))), nil
}
