package token

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"slices"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/envelope"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// EnvelopeGapError says that the token does not open a kind of envelope by itself. It was tried.
type EnvelopeGapError struct {
	Algorithm envelope.Algorithm
	Err       error // the token's answer
}

// Error names the token's answer.
func (e *EnvelopeGapError) Error() string { return fmt.Sprintf("%s: %v", e.Algorithm.Name, e.Err) }

// Unwrap returns the token's answer.
func (e *EnvelopeGapError) Unwrap() error { return e.Err }

// envelopeTrial is what trying the envelopes has shown, kept for gapTime where something is missing.
type envelopeTrial struct {
	at   time.Time
	gaps map[envelope.Algorithm]error
}

// envelopeTrialTime is for how long a trial is believed that has found gaps: a token is brought up to date now and then.
const envelopeTrialTime = 10 * time.Minute

// Opens returns nil if the token opens a kind of envelope by itself, an *EnvelopeGapError if it does not, or what keeps it from being
// known. All kinds are tried, at first use, by a pair and a key of known value that end with their session.
func (t *Token) Opens(ctx context.Context, a envelope.Algorithm) error {
	if trial := t.envelopes.Load(); trial != nil && (len(trial.gaps) == 0 || time.Since(trial.at) < envelopeTrialTime) {
		return trial.gap(a)
	}
	trial := &envelopeTrial{at: time.Now(), gaps: map[envelope.Algorithm]error{}}
	err := t.do(ctx, &operation{name: "C_UnwrapKey", longer: pairTimeout, run: func(s *session, _ []byte) error {
		clear(trial.gaps)
		return s.tryEnvelopes(trial.gaps)
	}})
	if err != nil {
		return err
	}
	t.envelopes.Store(trial)
	return trial.gap(a)
}

func (trial *envelopeTrial) gap(a envelope.Algorithm) error {
	if err := trial.gaps[a]; err != nil {
		return &EnvelopeGapError{Algorithm: a, Err: err}
	}
	return nil
}

// tryEnvelopes closes each kind of envelope around a key of known value, has the token open it in every way, and compares a MAC.
func (s *session) tryEnvelopes(gaps map[envelope.Algorithm]error) error {
	t := s.token
	h := t.trialHash()
	if !h.Valid() {
		return s.noEnvelope(gaps, errors.New("it makes no HMACs"))
	}
	made, err := s.generateWrapping(pubkey.RSA2048, Unwraps, t.probeID(), probeLabel, false)
	if e, ok := errors.AsType[*Error](err); ok && !e.DeviceLost() || errors.Is(err, errLooseWrapping) {
		return s.noEnvelope(gaps, err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = s.destroyPair(made) }() // at the latest it goes with its session
	key, err := s.publicKey(pubkey.RSA2048, made.public)
	if err != nil {
		return err
	}
	public, err := rsaPublic(key)
	if err != nil {
		return err
	}
	value := []byte("100 bytes of no meaning, which are longer than a block of SHA-256 and of no multiple of eight bytes.")
	for _, a := range envelope.Algorithms {
		blob, err := a.Seal(public, value)
		if err != nil {
			return err
		}
		head, tail, err := a.Split(blob, public.Size(), envelope.MaxMaterial)
		if err != nil {
			return err
		}
		gaps[a] = s.tryEnvelope(made.private, Wrapped{Algorithm: a, Head: head, Tail: tail}, h, value)
		if gaps[a] == nil {
			delete(gaps, a)
		}
	}
	return nil
}

func (s *session) noEnvelope(gaps map[envelope.Algorithm]error, err error) error {
	for _, a := range envelope.Algorithms {
		gaps[a] = err
	}
	return nil
}

// tryEnvelope tries the ways to open one envelope, each on a session of its own's answers: what fails may leave an operation active, but no
// unwrapping has one.
func (s *session) tryEnvelope(private pkcs11.ObjectHandle, w Wrapped, h Hash, value []byte) (gap error) {
	t := s.token
	for _, way := range unwrappings(w.Algorithm) {
		object, err := s.unwrapBy(way, private, w, t.keyTemplate(t.facts().off, h, t.probeID(), probeLabel, false))
		if err == nil {
			var tag []byte
			tag, err = s.signWith(h, object, probeMessage)
			if err == nil && subtle.ConstantTimeCompare(tag, softwareMAC(h, value, probeMessage)) != 1 {
				err = ErrWrong
			}
			s.discard(object)
		}
		if err == nil {
			t.unwraps.Store(w.Algorithm, way)
			return nil
		}
		gap = err
	}
	return gap
}

// trialHash is one that the token makes HMACs with; the zero value if there is none.
func (t *Token) trialHash() Hash {
	found := t.facts().caps.HMAC
	i := slices.IndexFunc(found, func(c HashCapability) bool { return c.Err() == nil })
	if i < 0 {
		return 0
	}
	return found[i].Hash
}

func softwareMAC(h Hash, key, message []byte) []byte {
	mac := hmac.New(map[Hash]func() hash.Hash{SHA224: sha256.New224, SHA256: sha256.New, SHA384: sha512.New384, SHA512: sha512.New}[h], key)
	mac.Write(message)
	return mac.Sum(nil)
}
