package keyring

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/envelope"
)

// ImportKey is the service key of a region that makes import tokens what only this service can make, and fingerprints of imported material
// what nobody else can compare with a guess.
const ImportKey = ServicePrefix + "import"

// ImportTokenLife is how long an import token is good for.
const ImportTokenLife = 24 * time.Hour

// The errors of import tokens.
var (
	ErrImportToken        = errors.New("the import token is not one of this key, or its key material was taken away since")
	ErrImportTokenExpired = errors.New("the import token has expired")
)

// importToken is what an import token says. Nothing of it is kept here.
type importToken struct {
	Key       string `json:"key"` // its ARN
	Pair      string `json:"pair"`
	Algorithm string `json:"algorithm"`
	NotAfter  int64  `json:"not_after"` // seconds since 1970
	Removed   int    `json:"removed"`   // of the key's record when the token was made
	Nonce     []byte `json:"nonce"`
}

// importTokenVersion is the first byte of a token; the MAC of SHA-256 and longer follows what the token says.
const importTokenVersion = 1

// What the service key is used for is told apart by what its messages begin with.
const (
	tokenContext       = "pkcs11kms import token\x00"
	fingerprintContext = "pkcs11kms imported material\x00"
)

// importMAC makes a MAC by the region's service key for imports.
func (r *Ring) importMAC(ctx context.Context, in *Region, message []byte) ([]byte, error) {
	want := serviceKey{ImportKey, []string{in.Name}, &MACSpecs[1]}
	for i := range MACSpecs { // HMAC_256 is what most tokens have
		if MACSpecs[1].Gap(in.Token) != nil && MACSpecs[i].Gap(in.Token) == nil {
			want.spec = &MACSpecs[i]
		}
	}
	k, err := r.service(ctx, want)
	if err != nil {
		return nil, err
	}
	key, ok := k.Material.(*HMAC)
	if !ok {
		return nil, fmt.Errorf("the service key %s has the spec %s", k.Record.ID, k.Record.Spec)
	}
	return key.MAC(ctx, message)
}

// newImportToken makes a token.
func (r *Ring) newImportToken(ctx context.Context, in *Region, t importToken) ([]byte, error) {
	t.Nonce = make([]byte, 16)
	rand.Read(t.Nonce) // never fails, see crypto/rand
	said, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	said = append([]byte{importTokenVersion}, said...)
	mac, err := r.importMAC(ctx, in, append([]byte(tokenContext), said...))
	if err != nil {
		return nil, err
	}
	return slices.Concat([]byte{byte(len(mac))}, mac, said), nil
}

// readImportToken reads a token that is good for a key, now.
func (r *Ring) readImportToken(ctx context.Context, in *Region, k *Key, text []byte) (t importToken, a envelope.Algorithm, err error) {
	if len(text) < 2 || len(text) < 2+int(text[0]) {
		return t, a, ErrImportToken
	}
	mac, said := text[1:1+int(text[0])], text[1+int(text[0]):]
	want, err := r.importMAC(ctx, in, append([]byte(tokenContext), said...))
	if err != nil {
		return t, a, err
	}
	if subtle.ConstantTimeCompare(want, mac) != 1 || said[0] != importTokenVersion {
		return t, a, ErrImportToken
	}
	dec := json.NewDecoder(bytes.NewReader(said[1:]))
	dec.DisallowUnknownFields()
	err = dec.Decode(&t)
	a, ok := envelope.Find(t.Algorithm)
	if err != nil || !ok || t.Key != k.ARN || k.Record.Import == nil || t.Removed != k.Record.Import.Removed {
		return t, a, ErrImportToken
	}
	if !r.Later().Before(time.Unix(t.NotAfter, 0)) {
		return t, a, ErrImportTokenExpired
	}
	return t, a, nil
}

// materialText is what a key's own MAC is made of to know its material again.
func materialText(k *Key) []byte { return []byte("pkcs11kms: is this the material of " + k.ARN + "?") }

// fingerprint is what is kept of imported material, given the key's MAC of materialText.
func (r *Ring) fingerprint(ctx context.Context, in *Region, k *Key, tag []byte) (keystore.HexBytes, error) {
	return r.importMAC(ctx, in, slices.Concat([]byte(fingerprintContext), []byte(k.ARN), []byte{0}, tag))
}
