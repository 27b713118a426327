package token

import (
	"errors"
	"slices"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// A token can lack one algorithm of a kind of key pair, and do the others: RSASSA-PSS, or one hash function. Pairs of the kind are made
// then, and do not sign by that one.

// signing is a kind of signature: by an algorithm, with pairs of a kind.
type signing struct {
	spec      pubkey.Spec
	algorithm pubkey.Algorithm
}

// missing is what a pair has refused to sign by.
type missing map[pubkey.Algorithm]*GapError

// of returns the algorithms in the order of their kind.
func (m missing) of(spec pubkey.Spec) []pubkey.Algorithm {
	return slices.DeleteFunc(spec.Algorithms(), func(a pubkey.Algorithm) bool { return m[a] == nil })
}

// tryPair reads the public key of a pair and has the pair sign by every algorithm of its kind. A *GapError says that it is of no use: it
// signs by none, or wrongly.
func (s *session) tryPair(spec pubkey.Spec, made pairHandles) (*pubkey.Key, missing, error) {
	public, err := s.publicKey(spec, made.public)
	if err != nil {
		return nil, nil, err
	}
	lacks, all := missing{}, spec.Algorithms()
	for _, a := range all {
		if err := s.tryAlgorithm(public, made.private, a, lacks); err != nil {
			return nil, nil, err
		}
	}
	if len(lacks) == len(all) {
		return nil, nil, lacks[all[0]]
	}
	for _, a := range lacks.of(spec) {
		if !refusesKind(lacks[a]) {
			continue
		}
		delete(lacks, a) // it is tried once more, since it would switch the algorithm off
		if err := s.tryAlgorithm(public, made.private, a, lacks); err != nil {
			return nil, nil, err
		}
	}
	return public, lacks, nil
}

// tryAlgorithm has a pair sign by an algorithm, and notes it in lacks if it does not. Who signs wrongly where another token would refuse
// is not to be believed in anything, but by Ed25519ph: SoftHSM 2.6.1 passes over phFlag and signs as for Ed25519.
func (s *session) tryAlgorithm(public *pubkey.Key, private pkcs11.ObjectHandle, a pubkey.Algorithm, lacks missing) error {
	spec := public.Spec()
	signature, err := s.signPair(spec, private, a, probeMessage, false)
	if err == nil {
		err = public.VerifyMessage(a, probeMessage, signature)
	}
	invalid := errors.Is(err, pubkey.ErrInvalid)
	gap := &GapError{Spec: spec, What: a.String(), Err: err}
	switch {
	case refusesKind(err), a == pubkey.Ed25519phSHA512 && (invalid || errors.Is(err, ErrMalformed)):
		lacks[a] = gap
		return nil
	case invalid:
		return gap
	}
	return err
}

// noteAlgorithms keeps what a pair has shown that was made here.
func (t *Token) noteAlgorithms(spec pubkey.Spec, lacks missing) {
	for _, a := range spec.Algorithms() {
		if gap := lacks[a]; gap != nil {
			t.proven.Delete(signing{spec, a})
			t.noteTrial(signing{spec, a}, gap)
			continue
		}
		t.noteTrial(signing{spec, a}, nil)
	}
}

// AlgorithmGap returns why the token makes no signatures by an algorithm with pairs of a kind, as far as is known from pairs that were
// made here; nil if it makes them, if nothing is known, or if that was so long ago that it is tried again. Of Ed25519ph it must be known
// that the token makes such signatures: others give what looks like one.
func (t *Token) AlgorithmGap(spec pubkey.Spec, a pubkey.Algorithm) error {
	if gap := t.knownGap(signing{spec, a}); gap != nil {
		return gap
	}
	if _, proven := t.proven.Load(signing{spec, a}); a != pubkey.Ed25519phSHA512 || proven {
		return nil
	}
	if kept, ok := t.gaps.Load(signing{spec, a}); ok { // which nobody tries again by the way
		return kept.(keptGap).gap
	}
	return &GapError{Spec: spec, What: a.String(), Err: ErrUntried}
}

// Lacks is AlgorithmGap, however long ago that was: what was found missing stays so until it is found otherwise.
func (t *Token) Lacks(spec pubkey.Spec, a pubkey.Algorithm) error {
	if kept, ok := t.gaps.Load(signing{spec, a}); ok {
		return kept.(keptGap).gap
	}
	return t.AlgorithmGap(spec, a)
}

// Makes tells whether the token makes signatures by an algorithm with pairs of a kind, as far as is known.
func (t *Token) Makes(spec pubkey.Spec, a pubkey.Algorithm) bool { return t.Lacks(spec, a) == nil }

// ByFirst uses pairs of a kind by one algorithm after the other until use has met one that the token makes.
func (t *Token) ByFirst(spec pubkey.Spec, use func(pubkey.Algorithm) error) (err error) {
	for _, a := range spec.Algorithms() {
		err = use(a)
		if _, gap := errors.AsType[*GapError](err); !gap {
			return err
		}
	}
	return err
}

// signBy is signPair for a key in use, by an algorithm of which no gap is known. What is refused is tried once more, and is a *GapError
// then.
func (s *session) signBy(p *Pair, object pkcs11.ObjectHandle, a pubkey.Algorithm, input []byte, digested bool) ([]byte, error) {
	signature, err := s.signPair(p.spec, object, a, input, digested)
	if refusesAlgorithm(err) && !s.abandoned() {
		if again, second := s.signPair(p.spec, object, a, input, digested); !refusesAlgorithm(second) {
			signature, err = again, second
		}
	}
	if refusesAlgorithm(err) {
		err = &GapError{Spec: p.spec, What: a.String(), Err: err}
	}
	if _, lacks := s.token.gaps.Load(signing{p.spec, a}); lacks { // else it may be that one key alone is not allowed to
		s.token.noteTrial(signing{p.spec, a}, err)
	}
	return signature, err
}

// refusesAlgorithm reports whether a key signs neither digests nor messages by an algorithm.
func refusesAlgorithm(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Func == "C_SignInit" && e.Unsupported() && !errors.Is(err, ErrDigestRefused)
}
