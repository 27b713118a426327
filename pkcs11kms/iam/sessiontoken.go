package iam

import (
	"bytes"
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// A session token is the claims of its session, sealed by AES-256-GCM under a key of its own:
//
//	base64( form (1 byte) | epoch (4) | salt (16) | nonce (12) | sealed claims | tag (16) )
//
// That key is HMAC-SHA-256 of the first three by the token key of the epoch, which the service key of access keys makes in the HSM, once
// in the life of a process: so tokens are opened without the HSM, whoever made them, and forged ones are refused without it. The secret
// access key is an HMAC of the whole token by the same key. Nothing of a session is stored; when the service key is followed by another
// one, the tokens of before stay good, as access keys do.

const (
	tokenForm   = 1
	tokenSalt   = 16
	tokenHeader = 1 + 4 + tokenSalt

	// maxToken bounds the characters of a token.
	maxToken = 4096
)

// sessionKeyPrefix begins the ids of the access keys of sessions, and of no others.
const sessionKeyPrefix = "ASIA"

// ErrExpiredToken says that a session was good and has ended.
var ErrExpiredToken = errors.New("the session has expired")

// errToken says that a text is no token of this service. Nobody is told what is wrong with it.
var errToken = errors.New("no session token of this service")

// errTokenTooLarge says how large a token would be, in percent of what it may be.
type errTokenTooLarge struct{ percent int }

func (e errTokenTooLarge) Error() string {
	return fmt.Sprintf("a session token would have %d percent of its greatest size", e.percent)
}

// tokenKey is what the tokens of an epoch are sealed by.
type tokenKey [sha256.Size]byte

// tokenKeyOf says which key that is: as long as nothing of it has changed, the key has not.
type tokenKeyOf struct {
	number uint32
	epoch  Epoch
}

// derive makes a key for one purpose.
func (k *tokenKey) derive(purpose string, of []byte) (key [sha256.Size]byte) {
	h := hmac.New(sha256.New, k[:])
	h.Write(lengthPrefixed(purpose))
	h.Write(of)
	h.Sum(key[:0])
	return key
}

func (k *tokenKey) aead(header []byte) (cipher.AEAD, error) {
	key := k.derive("seal", header)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// seal makes the token of claims, or errTokenTooLarge.
func (k *tokenKey) seal(epoch uint32, claims sessionClaims) (string, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(claims); err != nil {
		return "", err
	}
	header := binary.BigEndian.AppendUint32([]byte{tokenForm}, epoch)
	header = append(header, make([]byte, tokenSalt)...)
	rand.Read(header[tokenHeader-tokenSalt:]) // never fails, see crypto/rand
	aead, err := k.aead(header)
	if err != nil {
		return "", err
	}
	token := base64.StdEncoding.EncodeToString(aead.Seal(header, nil, bytes.TrimRight(text.Bytes(), "\n"), header))
	if percent := percentOf(token); percent > 100 {
		return "", errTokenTooLarge{percent}
	}
	return token, nil
}

// percentOf is how much of the greatest size a token has, rounded up.
func percentOf(token string) int { return (len(token)*100 + maxToken - 1) / maxToken }

// tokenEpoch reads what a token says of its epoch, which is not proved. raw is the token's bytes.
func tokenEpoch(token string) (raw []byte, epoch uint32, err error) {
	if token == "" || len(token) > maxToken {
		return nil, 0, errToken
	}
	raw, err = base64.StdEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) <= tokenHeader || raw[0] != tokenForm || base64.StdEncoding.EncodedLen(len(raw)) != len(token) {
		return nil, 0, errToken
	}
	return raw, binary.BigEndian.Uint32(raw[1:]), nil
}

// open returns the claims of a token that the key has sealed, or errToken.
func (k *tokenKey) open(raw []byte) (claims sessionClaims, err error) {
	header := raw[:tokenHeader]
	aead, err := k.aead(header)
	if err != nil {
		return claims, err
	}
	text, err := aead.Open(nil, nil, raw[tokenHeader:], header)
	if err != nil {
		return claims, errToken
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields() // of a later version: what it says may take rights away
	if err := decoder.Decode(&claims); err != nil {
		return claims, errToken
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return claims, errToken
	}
	return claims, nil
}

// tokenKeys are the token keys of the epochs that there are.
type tokenKeys struct {
	mu    sync.RWMutex // guards known
	known map[uint32]madeKey

	making chan struct{} // a lock of one place for the making of keys; guards failed
	failed map[uint32]failedKey
}

// madeKey is a token key and what it is of.
type madeKey struct {
	of  tokenKeyOf
	key *tokenKey
}

// failedKey is why a token key could not be made.
type failedKey struct {
	of  tokenKeyOf
	at  time.Time
	err error
}

const (
	keyPause = time.Second      // between two attempts to make a key: who sends tokens must not keep the HSM busy
	keyTime  = 10 * time.Second // that one may take
)

func newTokenKeys() *tokenKeys {
	return &tokenKeys{known: map[uint32]madeKey{}, making: make(chan struct{}, 1), failed: map[uint32]failedKey{}}
}

func (k *tokenKeys) get(of tokenKeyOf) (*tokenKey, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	known, ok := k.known[of.number]
	return known.key, ok && known.of == of
}

// tokenKey returns the key that tokens of an epoch are sealed by; errToken for an epoch that there is not. It asks the HSM once for each
// epoch and, when that fails, at most once in a second, however many tokens come.
func (d *Directory) tokenKey(ctx context.Context, number uint32) (*tokenKey, tokenKeyOf, error) {
	epoch, err := d.cfg.Epoch(ctx, number)
	of := tokenKeyOf{number, epoch}
	if err != nil || number == 0 || epoch.Key == 0 {
		return nil, of, cmp.Or(err, errToken)
	}
	keys := d.tokenKeys
	if key, ok := keys.get(of); ok {
		return key, of, nil
	}
	select {
	case keys.making <- struct{}{}:
		defer func() { <-keys.making }()
	case <-ctx.Done():
		return nil, of, ctx.Err()
	}
	if key, ok := keys.get(of); ok {
		return key, of, nil
	}
	if before, ok := keys.failed[number]; ok && before.of == of && d.cfg.Now().Sub(before.at).Abs() < keyPause {
		return nil, of, before.err
	}
	key, err := d.makeTokenKey(ctx, number)
	if err != nil {
		keys.failed[number] = failedKey{of, d.cfg.Now(), err}
		return nil, of, err
	}
	keys.mu.Lock()
	defer keys.mu.Unlock()
	keys.known[number] = madeKey{of, key}
	return key, of, nil
}

// makeTokenKey has the HSM make the token key of an epoch. Who asks may go away meanwhile: the next one finds the key made.
func (d *Directory) makeTokenKey(ctx context.Context, number uint32) (*tokenKey, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyTime)
	defer cancel()
	mac, err := d.cfg.MAC(ctx, number, lengthPrefixed("pkcs11kms session tokens v1"))
	if err == nil && len(mac) != len(tokenKey{}) {
		err = fmt.Errorf("the key of session tokens has %d bytes", len(mac))
	}
	if err != nil {
		return nil, err
	}
	key := tokenKey(mac)
	return &key, nil
}
