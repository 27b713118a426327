package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// Pair names a key pair of a Token by the CKA_ID of both halves and remembers the handle of the private one. It is safe for
// concurrent use.
type Pair struct {
	named
	spec pubkey.Spec
}

// Spec returns the kind of key pair.
func (p *Pair) Spec() pubkey.Spec { return p.spec }

// KeyPair names the key pair with this CKA_ID. It asks nothing of the token: the object is looked for at first use.
func (t *Token) KeyPair(s pubkey.Spec, id []byte) *Pair {
	return &Pair{spec: s, named: named{token: t, class: pkcs11.CKO_PRIVATE_KEY, id: append([]byte(nil), id...)}}
}

// pairTimeout is how much longer than other calls the generation of a key pair may take: smart cards search for the primes
// of a long RSA key for many seconds.
const pairTimeout = time.Minute

// GapError says that the token cannot make or use a kind of key, or makes no signatures by an algorithm with it. It was tried.
type GapError struct {
	Spec pubkey.Spec // of key pairs
	Hash Hash        // of HMAC keys
	What string      // what was tried, like "C_GenerateKeyPair" or "RSASSA-PSS with SHA-256"
	Err  error       // the token's answer
}

// Error names the token's answer.
func (e *GapError) Error() string {
	if e.Hash.Valid() {
		return fmt.Sprintf("HMAC keys with %v, %s: %v", e.Hash, e.What, e.Err)
	}
	return fmt.Sprintf("%v key pairs, %s: %v", e.Spec, e.What, e.Err)
}

// Unwrap returns the token's answer.
func (e *GapError) Unwrap() error { return e.Err }

// PairGap returns why the token cannot do key pairs of a kind, as far as Open and GenerateKeyPair have found out, or the module is
// known for; nil if nothing is known.
func (t *Token) PairGap(s pubkey.Spec) error {
	if gap := t.facts().quirk.gap(s); gap != nil {
		return gap
	}
	if gap := t.knownGap(s); gap != nil {
		return gap
	}
	return nil
}

// GenerateKeyPair makes a key pair inside the token and returns its public half. The new pair is the probe of what the token
// can do: it must make valid signatures, by one algorithm of its kind at least, or it is destroyed again and the error is a *GapError,
// which PairGap keeps. AlgorithmGap keeps which algorithms the token lacks. id and label are those of both halves; otherwise it is as
// GenerateHMACKey, and DestroyKeyPair makes sure. It may take a minute longer than Config.CallTimeout.
func (t *Token) GenerateKeyPair(ctx context.Context, spec pubkey.Spec, id []byte, label string) (*Pair, *pubkey.Key, error) {
	if !spec.Valid() {
		return nil, nil, fmt.Errorf("making a key pair: %v is none of package pubkey", spec)
	}
	pair := t.KeyPair(spec, id)
	var public *pubkey.Key
	var lacks missing
	o := &operation{name: "C_GenerateKeyPair", longer: pairTimeout}
	err := t.make(ctx, o, &pair.named, func(s *session) ([]pkcs11.ObjectHandle, error) {
		made, err := s.generatePair(spec, pair.id, label, true)
		if err != nil {
			return nil, err
		}
		key, without, err := s.tryPair(spec, made)
		if err != nil {
			return nil, errors.Join(err, s.destroyPair(made))
		}
		public, lacks = key, without
		return []pkcs11.ObjectHandle{made.private, made.public}, nil
	})
	err = t.confirmGap(ctx, spec, err)
	t.noteTrial(spec, err)
	if err != nil {
		return nil, nil, err
	}
	t.noteAlgorithms(spec, lacks)
	return pair, public, nil
}

// confirmGap tries a kind of key pair again that was found missing: what the token refused for a passing reason is an error of its own,
// and no gap, which would switch the kind off.
func (t *Token) confirmGap(ctx context.Context, spec pubkey.Spec, err error) error {
	gap, ok := errors.AsType[*GapError](err)
	if !ok || t.ProbeKeyPair(ctx, spec) != nil {
		return err
	}
	return fmt.Errorf("making a key pair of %v: %w: it was refused once: %w", spec, ErrMalformed, gap.Err)
}

// ProbeKeyPair makes a key pair of session objects, tries all that GenerateKeyPair would, and leaves nothing behind. It
// returns a *GapError if the token cannot do the kind, and ErrUntried if it makes no session objects. AlgorithmGap keeps what it has found
// of algorithms. Long RSA keys take seconds.
func (t *Token) ProbeKeyPair(ctx context.Context, spec pubkey.Spec) error {
	var lacks missing
	err := t.do(ctx, &operation{name: "C_GenerateKeyPair", longer: pairTimeout, run: func(s *session, _ []byte) error {
		without, err := s.probePair(spec)
		if err == nil {
			lacks = without
		}
		return err
	}})
	if err == nil {
		t.noteAlgorithms(spec, lacks)
	}
	return err
}

// probePair makes, tries and destroys a pair of session objects.
func (s *session) probePair(spec pubkey.Spec) (missing, error) {
	made, err := s.generatePair(spec, s.token.probeID(), probeLabel, false)
	if err != nil {
		return nil, err
	}
	_, lacks, err := s.tryPair(spec, made)
	return lacks, errors.Join(err, s.destroyPair(made))
}

// pairHandles are the two objects of a key pair.
type pairHandles struct{ private, public pkcs11.ObjectHandle }

func (s *session) generatePair(spec pubkey.Spec, id []byte, label string, onToken bool) (made pairHandles, err error) {
	if gap := s.token.facts().quirk.gap(spec); gap != nil {
		return made, gap
	}
	for _, curve := range curveNames(spec) {
		made, err = s.generateOn(spec, curve, id, label, onToken)
		if e, ok := errors.AsType[*Error](err); !ok || !e.refusesKind() {
			return made, err
		}
	}
	if e, _ := errors.AsType[*Error](err); !onToken && !s.token.facts().sessionKeys && e.refusesTemplate() {
		return made, fmt.Errorf("%w: %w", ErrUntried, err)
	}
	return made, &GapError{Spec: spec, What: "generation", Err: err}
}

// generateOn makes a pair of a curve. A token that refuses a private key's template which names CKA_SIGN_RECOVER, and takes it without,
// is not asked to again.
func (s *session) generateOn(spec pubkey.Spec, curve, id []byte, label string, onToken bool) (made pairHandles, err error) {
	generate := func() (made pairHandles, err error) {
		made.public, made.private, err = s.token.c.GenerateKeyPair(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pairMechanism(spec), nil)},
			s.token.publicTemplate(spec, curve, id, label, onToken), s.token.privateTemplate(spec, id, label, onToken))
		return made, wrapRV("C_GenerateKeyPair", err)
	}
	made, err = generate()
	if s.token.noRecover.Load() ||
		!isRV(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_TEMPLATE_INCONSISTENT) {
		return made, err
	}
	s.token.noRecover.Store(true)
	again, second := generate()
	if second != nil {
		s.token.noRecover.Store(false) // it was something else
		return made, err
	}
	return again, nil
}

// pairMechanism is what a pair is generated with.
func pairMechanism(spec pubkey.Spec) uint {
	switch {
	case spec.RSABits() > 0:
		return pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN
	case spec.Edwards():
		return ckmECEdwardsPairGen
	}
	return pkcs11.CKM_EC_KEY_PAIR_GEN
}

// TryPair reads the public key of a pair that another application has made, and has the pair sign by every algorithm of its kind, as
// GenerateKeyPair does with its own. It returns those by which it does not sign. Errors are those of PublicKey, and a *GapError if it
// signs by none.
func (t *Token) TryPair(ctx context.Context, p *Pair) (public *pubkey.Key, without []pubkey.Algorithm, err error) {
	var lacks missing
	public, err = t.withPublic(ctx, p, "C_Sign", func(s *session, object pkcs11.ObjectHandle) (key *pubkey.Key, err error) {
		err = s.withObject(&p.named, func(private pkcs11.ObjectHandle) error {
			key, lacks, err = s.tryPair(p.spec, pairHandles{private: private, public: object})
			return err
		})
		return key, err
	})
	if err != nil {
		return nil, nil, err
	}
	return public, lacks.of(p.spec), nil
}

// destroyPair destroys a pair that is of no use.
func (s *session) destroyPair(made pairHandles) error {
	return errors.Join(
		wrapRV("C_DestroyObject", s.token.c.DestroyObject(s.handle, made.private)),
		wrapRV("C_DestroyObject", s.token.c.DestroyObject(s.handle, made.public)))
}

// PublicKey reads the public half of a key pair from the token. It returns ErrKeyMissing or ErrKeyAmbiguous if there is not
// one object of class CKO_PUBLIC_KEY with the CKA_ID.
func (t *Token) PublicKey(ctx context.Context, p *Pair) (*pubkey.Key, error) {
	return t.withPublic(ctx, p, "C_GetAttributeValue", func(s *session, object pkcs11.ObjectHandle) (*pubkey.Key, error) {
		return s.publicKey(p.spec, object)
	})
}

// withPublic finds the public half of a pair, and returns the key that use makes of it. name is the C_ function that it is about.
func (t *Token) withPublic(ctx context.Context, p *Pair, name string,
	use func(*session, pkcs11.ObjectHandle) (*pubkey.Key, error)) (*pubkey.Key, error) {
	if err := t.ownsPair(p); err != nil {
		return nil, err
	}
	var public *pubkey.Key
	err := t.do(ctx, &operation{name: name, run: func(s *session, _ []byte) error {
		object, err := s.find(pkcs11.CKO_PUBLIC_KEY, p.id)
		if err != nil {
			return err
		}
		key, err := use(s, object)
		if err == nil {
			public = key
		}
		return err
	}})
	if err != nil {
		return nil, err // public may still be written to by a call that hangs
	}
	return public, nil
}

// publicKey reads and checks the public key of an object.
func (s *session) publicKey(spec pubkey.Spec, object pkcs11.ObjectHandle) (*pubkey.Key, error) {
	first, second := uint(pkcs11.CKA_EC_PARAMS), uint(pkcs11.CKA_EC_POINT)
	if spec.RSABits() > 0 {
		first, second = pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT
	}
	values, err := s.attributes(object, []*pkcs11.Attribute{pkcs11.NewAttribute(first, nil), pkcs11.NewAttribute(second, nil)})
	if err != nil {
		return nil, err
	}
	if len(values) != 2 {
		return nil, fmt.Errorf("reading a public key: %w: %d attributes instead of 2", ErrMalformed, len(values))
	}
	key, err := parsePublicKey(spec, values[0].Value, values[1].Value)
	if err != nil {
		return nil, fmt.Errorf("reading a public key: %w: %w", ErrMalformed, err)
	}
	return key, nil
}

// parsePublicKey makes a key of CKA_MODULUS and CKA_PUBLIC_EXPONENT, or of CKA_EC_PARAMS and CKA_EC_POINT.
func parsePublicKey(spec pubkey.Spec, first, second []byte) (*pubkey.Key, error) {
	if spec.RSABits() > 0 {
		return pubkey.FromRSA(spec, first, second)
	}
	named := func(curve []byte) bool { return bytes.Equal(first, curve) }
	if !slices.ContainsFunc(curveNames(spec), named) {
		return nil, fmt.Errorf("its CKA_EC_PARAMS is not that of %v", spec)
	}
	return pubkey.FromPoint(spec, ecPoint(spec, second))
}

// ecPoint takes the point out of CKA_EC_POINT. PKCS #11 wants it as a DER OCTET STRING, and some tokens give it bare. Both
// begin with the byte 4, so that only the length tells them apart.
func ecPoint(spec pubkey.Spec, value []byte) []byte {
	if spec.Edwards() {
		return edwardsPoint(value)
	}
	bare := 1 + 2*spec.FieldBytes()
	header := []byte{0x04, byte(bare)}
	if bare > 127 {
		header = []byte{0x04, 0x81, byte(bare)}
	}
	if point, wrapped := bytes.CutPrefix(value, header); wrapped && len(point) == bare {
		return point
	}
	return value
}
