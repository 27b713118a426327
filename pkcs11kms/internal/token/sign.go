package token

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// signatureMechanism is how PKCS#11 makes the signatures of an algorithm. Every token known makes them of a digest; the
// mechanism that hashes the message itself is for one that does not, and the only one for algorithms that sign no digest.
type signatureMechanism struct {
	ofDigest  []*pkcs11.Mechanism // signs prefix and digest; may be nil
	prefix    []byte
	ofMessage []*pkcs11.Mechanism
}

// hashMechanisms are the constants of one hash function.
type hashMechanisms struct {
	hash, mgf         uint
	pkcs1, pss, ecdsa uint // that hash the message
	arc               byte // the last of the hash function's object identifier, 2.16.840.1.101.3.4.2.x
}

var signatureHashes = map[crypto.Hash]hashMechanisms{
	crypto.SHA256: {hash: pkcs11.CKM_SHA256, mgf: pkcs11.CKG_MGF1_SHA256, arc: 1,
		pkcs1: pkcs11.CKM_SHA256_RSA_PKCS, pss: pkcs11.CKM_SHA256_RSA_PKCS_PSS, ecdsa: pkcs11.CKM_ECDSA_SHA256},
	crypto.SHA384: {hash: pkcs11.CKM_SHA384, mgf: pkcs11.CKG_MGF1_SHA384, arc: 2,
		pkcs1: pkcs11.CKM_SHA384_RSA_PKCS, pss: pkcs11.CKM_SHA384_RSA_PKCS_PSS, ecdsa: pkcs11.CKM_ECDSA_SHA384},
	crypto.SHA512: {hash: pkcs11.CKM_SHA512, mgf: pkcs11.CKG_MGF1_SHA512, arc: 3,
		pkcs1: pkcs11.CKM_SHA512_RSA_PKCS, pss: pkcs11.CKM_SHA512_RSA_PKCS_PSS, ecdsa: pkcs11.CKM_ECDSA_SHA512},
}

// signatureMechanisms holds the arguments of C_SignInit, made once.
var signatureMechanisms = func() map[pubkey.Algorithm]signatureMechanism {
	table := edwardsMechanisms()
	for hash, h := range signatureHashes {
		pss := pkcs11.NewPSSParams(h.hash, h.mgf, uint(hash.Size()))
		table[pubkey.Algorithm{Scheme: pubkey.PKCS1v15, Hash: hash}] = signatureMechanism{prefix: digestInfo(h.arc, byte(hash.Size())),
			ofDigest: mechanism(pkcs11.CKM_RSA_PKCS, nil), ofMessage: mechanism(h.pkcs1, nil)}
		table[pubkey.Algorithm{Scheme: pubkey.PSS, Hash: hash}] = signatureMechanism{
			ofDigest: mechanism(pkcs11.CKM_RSA_PKCS_PSS, pss), ofMessage: mechanism(h.pss, pss)}
		table[pubkey.Algorithm{Scheme: pubkey.ECDSA, Hash: hash}] = signatureMechanism{
			ofDigest: mechanism(pkcs11.CKM_ECDSA, nil), ofMessage: mechanism(h.ecdsa, nil)}
	}
	return table
}()

func mechanism(mechanism uint, parameter any) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, parameter)}
}

// digestInfo is what DER has in front of the digest in a DigestInfo (RFC 8017 9.2, note 1).
func digestInfo(arc, digestBytes byte) []byte {
	return []byte{0x30, 17 + digestBytes, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, arc,
		0x05, 0x00, 0x04, digestBytes}
}

// pairMechanisms returns every mechanism that a pair of the kind may be used with, for CKA_ALLOWED_MECHANISMS.
func pairMechanisms(spec pubkey.Spec) (all []uint) {
	for _, a := range spec.Algorithms() {
		m := signatureMechanisms[a]
		for _, of := range slices.Concat(m.ofDigest, m.ofMessage) {
			all = append(all, of.Mechanism)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// ErrDigestRefused says that the token signs by this algorithm only what it has hashed itself, or that the algorithm is one of
// messages.
var ErrDigestRefused = errors.New("the token does not sign digests, only messages")

// Sign signs a message with the private key of a pair: an RSA signature, a DER ECDSA-Sig-Value, or the 64 bytes of Ed25519.
// It returns ErrKeyMissing if the key's object is gone, and a *GapError if it does not sign by the algorithm. The message may be
// changed as soon as Sign has returned, even with a *HungError.
func (t *Token) Sign(ctx context.Context, p *Pair, a pubkey.Algorithm, message []byte) ([]byte, error) {
	return t.sign(ctx, p, a, message, false)
}

// SignDigest is Sign for a message of which the caller has only the digest, by the algorithm's hash function.
// ErrDigestRefused says that the token cannot.
func (t *Token) SignDigest(ctx context.Context, p *Pair, a pubkey.Algorithm, digest []byte) ([]byte, error) {
	if len(digest) != a.Hash.Size() {
		return nil, fmt.Errorf("signing a digest: it has %d bytes instead of %d", len(digest), a.Hash.Size())
	}
	return t.sign(ctx, p, a, digest, true)
}

func (t *Token) sign(ctx context.Context, p *Pair, a pubkey.Algorithm, input []byte, digested bool) ([]byte, error) {
	if err := t.ownsPair(p); err != nil {
		return nil, err
	}
	if !p.spec.Allows(a) {
		return nil, fmt.Errorf("using a key pair: %v is no algorithm of %v", a, p.spec)
	}
	if gap := t.AlgorithmGap(p.spec, a); gap != nil {
		return nil, gap
	}
	var signature []byte
	err := t.do(ctx, &operation{name: "C_Sign", often: true, input: input, run: func(s *session, input []byte) error {
		return s.withObject(&p.named, func(object pkcs11.ObjectHandle) error {
			made, err := s.signBy(p, object, a, input, digested)
			if err == nil {
				signature = made
			}
			return err
		})
	}})
	if err != nil {
		return nil, err
	}
	return signature, nil
}

func (t *Token) ownsPair(p *Pair) error {
	if p == nil || p.token != t {
		return errForeignKey
	}
	return nil
}

// signPair signs in one part. Whether the token wants the digest or the message is found out by trying, and kept.
func (s *session) signPair(spec pubkey.Spec, object pkcs11.ObjectHandle, a pubkey.Algorithm, input []byte, digested bool) ([]byte, error) {
	m, t := signatureMechanisms[a], s.token
	if _, hashesItself := t.messageOnly.Load(a); hashesItself || a.OfMessage() {
		if digested {
			return nil, ErrDigestRefused
		}
		return s.signsMessage(spec, m, object, input)
	}
	digest := input
	if !digested {
		digest = a.Digest(input)
	}
	digest = append(m.prefix[:len(m.prefix):len(m.prefix)], digest...)
	raw, err := s.signOnce(m.ofDigest, object, digest)
	signature, err := signatureOf(spec, raw, err)
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Func != "C_SignInit" || !e.Unsupported() || s.abandoned() {
		return signature, err
	}
	if digested {
		return nil, fmt.Errorf("%w: %w", ErrDigestRefused, err)
	}
	signature, second := s.signsMessage(spec, m, object, input)
	if errors.Is(second, ErrMessageTooLong) {
		return nil, second
	}
	if second != nil {
		return nil, err
	}
	// Once more, since nobody would try again after this.
	if _, again := s.signOnce(m.ofDigest, object, digest); again == nil {
		return signature, nil
	}
	t.messageOnly.Store(a, true)
	t.log.Info("the token hashes messages itself to sign them: it cannot sign digests", "algorithm", a.String())
	return signature, nil
}

// signsMessage has the token hash the message that it signs.
func (s *session) signsMessage(spec pubkey.Spec, m signatureMechanism, object pkcs11.ObjectHandle, message []byte) ([]byte, error) {
	raw, err := s.signMessage(m.ofMessage, object, message, false)
	return signatureOf(spec, raw, err)
}

// signatureOf checks the length of what the token made, unless that is an error, and gives it the form that others expect.
func signatureOf(spec pubkey.Spec, raw []byte, err error) ([]byte, error) {
	switch {
	case err != nil:
		return nil, err
	case spec.FieldBytes() > 0:
		signature, err := pubkey.SignatureDER(spec, raw)
		if err != nil {
			err = fmt.Errorf("making a signature: %w: %w", ErrMalformed, err)
		}
		return signature, err
	}
	want := spec.RSABits() / 8
	if spec.Edwards() {
		want = ed25519SignatureSize
	}
	if len(raw) != want {
		return nil, fmt.Errorf("making a signature: %w: %d bytes instead of %d", ErrMalformed, len(raw), want)
	}
	return raw, nil
}
