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

// probeEdwards makes a pair of session objects, where the token can, to know whether it makes Ed25519ph signatures. What keeps the token
// from Ed25519 at all is kept for PairGap.
func (t *Token) probeEdwards() {
	s := &session{token: t}
	defer s.close()
	var lacks missing
	err := s.run(&operation{run: func(s *session, _ []byte) (err error) {
		lacks, err = s.probePair(pubkey.Edwards25519)
		return err
	}}, nil)
	t.noteTrial(pubkey.Edwards25519, err)
	if _, gap := errors.AsType[*GapError](err); gap || err == nil {
		t.learn(func(known *facts) { known.edwardsSeen = true })
	}
	if err == nil {
		t.noteAlgorithms(pubkey.Edwards25519, lacks)
	}
}

// edwardsMechanisms are those of the algorithms of an Edwards curve.
func edwardsMechanisms() map[pubkey.Algorithm]signatureMechanism {
	return map[pubkey.Algorithm]signatureMechanism{
		pubkey.Ed25519SHA512:   {ofMessage: mechanism(ckmEdDSA, nil)},
		pubkey.Ed25519phSHA512: {ofMessage: []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmEdDSA, eddsaPrehash())}},
	}
}
