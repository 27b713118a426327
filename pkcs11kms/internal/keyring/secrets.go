package keyring

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// SecretsKey is the service key that makes the secrets of access keys. It is made in the token of the default region, unless that makes no
// HMAC keys and another one's does, and stays where it was made, whichever region is the default one later, or for one command. Where no
// token makes HMAC keys it is an RSA pair.
const SecretsKey = ServicePrefix + "access-keys"

// secretsSpecs are what it is made of: the first that a token can do.
var secretsSpecs = []*Spec{MACSpecOf(types.KeySpecHmac256), SignSpecOf(types.KeySpecRsa2048, types.KeyUsageTypeSignVerify)}

// secretsAlgorithm is by which an RSA pair stands in for an HMAC key: PKCS#1 v1.5, whose signature of a message is always the same one. One
// of an elliptic curve is another each time.
var secretsAlgorithm = pubkey.PKCS1SHA256

// SecretsMAC makes 32 bytes of a message that nobody can make without the service key of access keys of an epoch: its HMAC-SHA-256 or, by
// an RSA pair, the SHA-256 of its signature. The first key is made where there is none.
func (r *Ring) SecretsMAC(ctx context.Context, epoch uint32, message []byte) ([]byte, error) {
	k, err := r.knownSecretsKey(ctx, epoch)
	if errors.Is(err, keystore.ErrNotFound) && epoch <= 1 {
		k, _, err = r.newestOrFirst(ctx, r.secretsKey(1))
		if err == nil && k.Record.ID != SecretsKey { // and it was retired
			err = keystore.ErrNotFound
		}
	}
	if errors.Is(err, keystore.ErrNotFound) {
		err = fmt.Errorf("the service key %s has no record", EpochName(SecretsKey, epoch))
	}
	if err != nil {
		return nil, err
	}
	switch key := k.Material.(type) {
	case *HMAC:
		return key.MAC(ctx, message)
	case *Pair:
		if key.Makes(secretsAlgorithm) && key.Spec.Pair.RSABits() > 0 {
			signature, err := key.Sign(ctx, secretsAlgorithm, message)
			sum := sha256.Sum256(signature)
			return sum[:], err
		}
	}
	return nil, fmt.Errorf("the service key %s has the spec %s", k.Record.ID, k.Record.Spec)
}

// SecretsVersion is another number when SecretsMAC of an epoch is made by another key than before, in whatever process that was made; 0
// while there is none. It is as current as what is cached.
func (r *Ring) SecretsVersion(ctx context.Context, epoch uint32) (uint64, error) {
	k, err := r.knownSecretsKey(ctx, epoch)
	if errors.Is(err, keystore.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return k.Version, nil
}

// NewestSecrets is the epoch of the present service key of access keys, which is made when there is none, and the condition that it is
// still there.
func (r *Ring) NewestSecrets(ctx context.Context) (epoch uint32, holds keystore.Change, err error) {
	k, epoch, err := r.newestOrFirst(ctx, r.secretsKey(1))
	if err != nil {
		return 0, holds, err
	}
	return epoch, keystore.Change{Op: keystore.Check, Ref: k.Record.Ref(), Expect: k.Version}, nil
}

// NextSecretsKey has the service key of access keys followed by another one, which it makes. keystore.ErrNotFound: there is none.
func (r *Ring) NextSecretsKey(ctx context.Context) (epoch uint32, err error) {
	_, epoch, err = r.newest(ctx, SecretsKey)
	if err != nil {
		return 0, err
	}
	_, err = r.service(ctx, r.secretsKey(epoch+1))
	crash.At("next-key-made")
	return epoch + 1, err
}

// knownSecretsKey looks first where the service key of access keys of an epoch was the last time: what is not there is not cached.
func (r *Ring) knownSecretsKey(ctx context.Context, epoch uint32) (*Key, error) {
	epoch = max(1, epoch)
	if region, ok := r.secretsRegions.Load(epoch); ok {
		k, err := r.serviceIn(ctx, region.(string), EpochName(SecretsKey, epoch))
		if !errors.Is(err, keystore.ErrNotFound) {
			return k, err
		}
	}
	k, err := r.findService(ctx, r.secretsKey(epoch))
	if err == nil {
		r.secretsRegions.Store(epoch, k.Record.Region)
	}
	return k, err
}

// secretsKey says of what and where the service key of access keys of an epoch is made when it is not there.
func (r *Ring) secretsKey(epoch uint32) serviceKey {
	home := serviceKey{EpochName(SecretsKey, epoch), r.cfg.Regions, secretsSpecs[0]}
	for _, spec := range secretsSpecs {
		for i, name := range r.cfg.Regions {
			in := r.regions[name]
			switch {
			case in == nil:
			case i == 0 && in.Token.Info() == token.Info{}:
				return home // nobody knows yet what it can do
			case in.Token.Info() != token.Info{} && spec.Gap(in.Token) == nil:
				return serviceKey{home.name, slices.Concat(r.cfg.Regions[i:], r.cfg.Regions[:i]), spec}
			}
		}
	}
	return home
}

// RenewSecretsKey makes the service key of access keys of an epoch anew if it is of no use any more, see SecretsFault; with lost also if
// there is no record of it. It tells why it did, and "" when it did not: then the secret of every access key of the epoch is another than
// before. The object of before, if there is one, is left alone.
func (r *Ring) RenewSecretsKey(ctx context.Context, epoch uint32, lost bool) (why string, err error) {
	return r.renewService(ctx, r.secretsKey(epoch), lost)
}

// renewService is RenewSecretsKey for any service key that is made of the same.
func (r *Ring) renewService(ctx context.Context, want serviceKey, lost bool) (why string, err error) {
	k, err := r.findService(ctx, want)
	if errors.Is(err, keystore.ErrNotFound) && lost {
		_, err := r.service(ctx, want)
		return "has no record", err
	}
	if errors.Is(err, keystore.ErrNotFound) {
		return "", nil // it is made when it is needed
	}
	if err != nil {
		return "", err
	}
	in := r.regions[k.Record.Region]
	if why, err = SecretsFault(ctx, in.Token, k.Record); why == "" || err != nil {
		return "", err
	}
	can := func(spec *Spec) bool { return spec.Gap(in.Token) == nil }
	spec := secretsSpecs[max(0, slices.IndexFunc(secretsSpecs, can))]
	_, err = r.make(ctx, in, spec, in.NewRecord("", want.name), place{expect: k.Version}, nil)
	return why, err
}

// proofText is what the proof of the service key of access keys is of. It must never change, and nothing that secrets are made of is equal
// to it: that begins with a length.
var proofText = []byte("pkcs11kms: this key makes the secrets of access keys")

// secretsProof makes the proof of a service key of access keys, by which it is known again; nil for a pair, which has its public key for
// that, and for other keys.
func secretsProof(ctx context.Context, t *token.Token, record keystore.Key) (keystore.HexBytes, error) {
	spec := MACSpecOf(types.KeySpec(record.Spec))
	if _, ok := EpochOf(SecretsKey, record.ID); !ok || record.Account != "" || spec == nil {
		return nil, nil
	}
	return t.MAC(ctx, t.HMACKey(spec.Hash, record.CKAID), proofText)
}

// SecretsFault tells what makes the object of the service key of access keys useless for good, and the secrets of all access keys void: it
// is gone from its region's token, or is not the one that was made. "" if nothing does; an error says that nobody knows. Of a key that was
// made before proofs were kept another one of the same type and length cannot be told.
func SecretsFault(ctx context.Context, t *token.Token, record keystore.Key) (string, error) {
	spec, describe := SignSpecOf(types.KeySpec(record.Spec), types.KeyUsageType(record.Usage)), t.DescribePair
	if spec == nil {
		if spec, describe = MACSpecOf(types.KeySpec(record.Spec)), t.Describe; spec == nil {
			return "", fmt.Errorf("the service key %s has the spec %s", record.ID, record.Spec)
		}
	}
	o, err := describe(ctx, record.CKAID)
	switch {
	case errors.Is(err, token.ErrKeyMissing):
		return "has no object in the token", nil
	case err != nil:
		return "", err
	case spec.Pair.Valid():
		return pairFault(ctx, t, spec, record)
	case !o.HMACKey(spec.Hash), o.ValueLen != 0 && o.ValueLen != spec.Hash.KeyBytes():
		return "is another object than the one that was made: of another type or length", nil
	}
	return macFault(ctx, t, record)
}

// macFault tells whether an HMAC key does not make its proof, by two of them: one may be a passing fault.
func macFault(ctx context.Context, t *token.Token, record keystore.Key) (string, error) {
	if record.Proof == nil {
		return "", nil
	}
	for range 2 {
		proof, err := secretsProof(ctx, t, record)
		if err != nil {
			return "", err
		}
		if subtle.ConstantTimeCompare(proof, record.Proof) == 1 {
			return "", nil
		}
	}
	return "is another object than the one that was made: its MACs are others", nil
}

// pairFault tells whether a private key is not the one that belongs to the public key of its record, by two signatures: one may be a
// passing fault.
func pairFault(ctx context.Context, t *token.Token, spec *Spec, record keystore.Key) (string, error) {
	public, err := pubkey.Parse(spec.Pair, record.PublicKey)
	if err != nil {
		return "", fmt.Errorf("public key of the record of %s: %w", record.ID, err)
	}
	message := []byte("pkcs11kms: is this the service key?")
	for range 2 {
		signature, err := t.Sign(ctx, t.KeyPair(spec.Pair, record.CKAID), secretsAlgorithm, message)
		if err != nil {
			return "", err
		}
		if public.VerifyMessage(secretsAlgorithm, message, signature) == nil {
			return "", nil
		}
	}
	return "is another object than the one that was made: its signatures are not valid by the public key of the record", nil
}
