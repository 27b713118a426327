package keyring

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Material is what a key is made of, and what can be done with it: an *HMAC or a *Pair. A key whose spec this version of the
// program does not know has none.
type Material interface {
	// describe sets the members of the metadata that keys of this kind have and others have not.
	describe(*types.KeyMetadata)
	// healthy has the token use the key on a session that is kept for this.
	healthy(context.Context) error
	// dropped ends the use of what the token keeps for the key's use alone.
	dropped()
}

// HMAC is the material of a key for MACs.
type HMAC struct {
	Spec  *Spec
	token *token.Token
	key   *token.Key
}

// MAC makes the HMAC of a message, untruncated.
func (m *HMAC) MAC(ctx context.Context, message []byte) ([]byte, error) {
	return m.token.MAC(ctx, m.key, message)
}

// Stream begins the HMAC of data that comes in pieces.
func (m *HMAC) Stream(ctx context.Context) (*token.Stream, error) {
	return m.token.NewStream(ctx, m.key)
}

func (m *HMAC) describe(metadata *types.KeyMetadata) {
	metadata.MacAlgorithms = []types.MacAlgorithmSpec{m.Spec.Algorithm}
}

func (m *HMAC) healthy(ctx context.Context) error { return m.token.HealthyMAC(ctx, m.key) }

func (m *HMAC) dropped() { m.key.DropCopy() }

// Pair is the material of a signing key.
type Pair struct {
	Spec   *Spec
	Public *pubkey.Key
	token  *token.Token
	pair   *token.Pair
}

// Sign signs a message.
func (p *Pair) Sign(ctx context.Context, a pubkey.Algorithm, message []byte) ([]byte, error) {
	return p.token.Sign(ctx, p.pair, a, message)
}

// SignDigest signs the hash of a message.
func (p *Pair) SignDigest(ctx context.Context, a pubkey.Algorithm, digest []byte) ([]byte, error) {
	return p.token.SignDigest(ctx, p.pair, a, digest)
}

// Makes tells whether the token can do the algorithm, which the spec has, as far as is known.
func (p *Pair) Makes(a pubkey.Algorithm) bool { return p.token.Makes(p.Spec.Pair, a) }

// Gap returns why the token does not sign by the algorithm, which the spec has; nil if it does or if it is to be tried.
func (p *Pair) Gap(a pubkey.Algorithm) error { return p.token.AlgorithmGap(p.Spec.Pair, a) }

// Algorithms returns the names of the algorithms of the spec that the token can do, as far as is known.
func (p *Pair) Algorithms() []types.SigningAlgorithmSpec { return p.Spec.Signing(p.token) }

// Curve tells whether the key is one of an elliptic curve.
func (p *Pair) Curve() bool { return p.Spec.Pair.RSABits() == 0 }

func (p *Pair) describe(metadata *types.KeyMetadata) { metadata.SigningAlgorithms = p.Algorithms() }

func (p *Pair) healthy(ctx context.Context) error {
	return p.token.ByFirst(p.Spec.Pair, func(a pubkey.Algorithm) error { return p.token.HealthySignature(ctx, p.pair, a) })
}

func (p *Pair) dropped() { p.pair.DropCopy() }

// material is that of a record's key, which is found in the token when it is used.
func (g *Region) material(record keystore.Key) (Material, error) {
	if spec := MACSpecOf(types.KeySpec(record.Spec)); spec != nil {
		// An object that was adopted, kept and adopted anew may be used with another hash than before.
		key := handle(g, record, func(k *token.Key) bool { return k.Hash() == spec.Hash },
			func(id []byte) *token.Key { return g.Token.HMACKey(spec.Hash, id) })
		return &HMAC{spec, g.Token, key}, nil
	}
	spec := SignSpecOf(types.KeySpec(record.Spec), types.KeyUsageType(record.Usage))
	if spec == nil {
		return nil, nil
	}
	public, err := pubkey.Parse(spec.Pair, record.PublicKey)
	if err != nil {
		return nil, err
	}
	pair := handle(g, record, func(p *token.Pair) bool { return p.Spec() == spec.Pair },
		func(id []byte) *token.Pair { return g.Token.KeyPair(spec.Pair, id) })
	return &Pair{spec, public, g.Token, pair}, nil
}

// handle returns the handle of a key's object, a *token.Key or *token.Pair: the one that is known, if it fits, or a new one.
// Handles outlive the cached records: finding an object is the slow part, and the token layer itself notices when a handle
// went stale.
func handle[T any](g *Region, record keystore.Key, fits func(T) bool, named func(ckaID []byte) T) T {
	id := record.CKAID.String()
	known, _ := g.handles.Load(id)
	if h, ok := known.(T); ok && fits(h) {
		return h
	}
	h := named(record.CKAID)
	g.handles.Store(id, h)
	return h
}
