package token

import (
	"bytes"
	"encoding/asn1"
	"errors"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// Constants of PKCS #11 3.0 that github.com/miekg/pkcs11 does not have.
const (
	ckkECEdwards         = 0x40
	ckmECEdwardsPairGen  = 0x1055
	ckmEdDSA             = 0x1057
	edwards25519         = "edwards25519" // curveName of CKA_EC_PARAMS (PKCS #11 3.0, 2.3.7)
	ed25519SignatureSize = 64
)

// eddsaPrehash is a CK_EDDSA_PARAMS {CK_BBOOL phFlag, CK_ULONG ulContextDataLen, CK_BYTE_PTR pContextData} that asks for Ed25519ph
// without a context; the members after phFlag are zero, wherever they are aligned to.
func eddsaPrehash() []byte {
	params := make([]byte, 3*ulongBytes)
	params[0] = 1
	return params
}

// curveNames are what CKA_EC_PARAMS may be for a kind, in the order in which they are tried. PKCS #11 has for an Edwards curve the
// choice between an object identifier and a name: SoftHSM 2.6.1 takes both and answers with the one that it was given; the
// YubiHSM's module takes the name alone.
func curveNames(spec pubkey.Spec) [][]byte {
	switch {
	case spec.RSABits() > 0:
		return [][]byte{nil}
	case spec.Edwards():
		name, err := asn1.MarshalWithParams(edwards25519, "printable")
		if err != nil {
			panic(err) // a constant
		}
		return [][]byte{spec.CurveParameters(), name}
	}
	return [][]byte{spec.CurveParameters()}
}

// edwardsPoint takes the 32 bytes of RFC 8032 out of CKA_EC_POINT: bare as PKCS #11 3.0 has them, or as a DER OCTET STRING as
// SoftHSM 2.6.1 does, or a BIT STRING as in a certificate. The length tells them apart.
func edwardsPoint(value []byte) []byte {
	const bare = 32
	for _, header := range [][]byte{{0x04, bare}, {0x03, bare + 1, 0}} {
		if point, wrapped := bytes.CutPrefix(value, header); wrapped && len(point) == bare {
			return point
		}
	}
	return value
}

// ErrNoPrehash says that the token makes no Ed25519ph signatures.
var ErrNoPrehash = errors.New("the token makes no Ed25519ph signatures")

// Makes tells whether the token makes signatures of an algorithm with the pairs that it can do: all of them make every algorithm of
// their kind but Ed25519ph, which depends on the token.
func (t *Token) Makes(a pubkey.Algorithm) bool {
	return a != pubkey.Ed25519phSHA512 || t.facts().caps.Ed25519ph
}

// probeEdwards makes a pair of session objects, where the token can, and returns whether it makes Ed25519ph signatures. SoftHSM
// 2.6.1 passes over phFlag and signs as for Ed25519, which would be a false signature: only one that verifies counts. What keeps the
// token from Ed25519 at all is kept for PairGap.
func (t *Token) probeEdwards() (prehashes bool) {
	s := &session{token: t}
	defer s.close()
	err := s.run(&operation{run: func(s *session, _ []byte) error {
		made, err := s.generatePair(pubkey.Edwards25519, t.probeID(), probeLabel, false)
		if err != nil {
			return err
		}
		public, err := s.tryPair(pubkey.Edwards25519, made)
		if err == nil {
			signature, signErr := s.signPair(pubkey.Edwards25519, made.private, pubkey.Ed25519phSHA512, probeMessage, false)
			prehashes = signErr == nil && public.VerifyMessage(pubkey.Ed25519phSHA512, probeMessage, signature) == nil
		}
		if undo := s.destroyPair(made); undo != nil {
			t.log.Debug("destroying the probe's session key pair", "error", undo)
		}
		return err
	}}, nil)
	t.noteTrial(pubkey.Edwards25519, err)
	return prehashes
}

// edwardsMechanisms are those of the algorithms of an Edwards curve.
func edwardsMechanisms() map[pubkey.Algorithm]signatureMechanism {
	return map[pubkey.Algorithm]signatureMechanism{
		pubkey.Ed25519SHA512:   {ofMessage: mechanism(ckmEdDSA, nil)},
		pubkey.Ed25519phSHA512: {ofMessage: []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmEdDSA, eddsaPrehash())}},
	}
}
