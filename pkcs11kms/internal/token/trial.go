package token

import (
	"errors"
	"slices"
	"time"

	"github.com/miekg/pkcs11"
)

// What a token can do is tried at Open with keys that end with their session. Some tokens make none (read in the source of the YubiHSM's
// module: CKA_TOKEN false is CKR_ATTRIBUTE_VALUE_INVALID; measured: the TPM), and any can be in trouble just then. Nothing is known
// then, which is no "no": the first key that is made is the trial, and is destroyed again when it is of no use.

// ErrUntried says that nothing is known yet of a kind of key: it could not be tried, and is known when one is made.
var ErrUntried = errors.New("it could not be tried, and is known when such a key is made")

// gapBelieved is how long it is believed that the token cannot do a kind of key. Then the next one that is to be made is tried:
// firmware and settings of a token change under a server that runs for months.
const gapBelieved = 10 * time.Minute

// keptGap is what was found missing when a key was to be made, and when.
type keptGap struct {
	gap   *GapError
	found time.Time
}

// knownGap returns what is missing of a kind of key or signature, a Hash, pubkey.Spec or signing; nil if nothing is known.
func (t *Token) knownGap(kind any) *GapError {
	kept, ok := t.gaps.Load(kind)
	if !ok || time.Since(kept.(keptGap).found) > gapBelieved {
		return nil
	}
	return kept.(keptGap).gap
}

// noteTrial keeps what the making or use of a key has shown of a kind: that it can be done, or a *GapError. Other errors show nothing.
func (t *Token) noteTrial(kind any, err error) {
	if err == nil {
		t.gaps.Delete(kind)
		t.proven.Store(kind, true)
	} else if gap, ok := errors.AsType[*GapError](err); ok {
		t.gaps.Store(kind, keptGap{gap, time.Now()})
	}
}

// HashGap returns why the token cannot make or use HMAC keys for h, as far as Open and GenerateHMACKey have found out; nil if it can, or
// if nothing is known.
func (t *Token) HashGap(h Hash) error {
	if gap := t.knownGap(h); gap != nil {
		return gap
	}
	if t.provenHash(h) {
		return nil
	}
	if _, tried := t.gaps.Load(h); tried {
		return nil // so long ago that it is tried again
	}
	if err := t.facts().caps.For(h).Err(); !errors.Is(err, ErrUntried) {
		return err
	}
	return nil
}

// provenHash reports whether keys for h were made and used.
func (t *Token) provenHash(h Hash) bool {
	_, made := t.proven.Load(h)
	return made || t.facts().caps.For(h).Err() == nil
}

// generateTried makes an HMAC key of a kind of which it is not known that the token can do it, and tries it.
func (s *session) generateTried(h Hash, id []byte, label string) (pkcs11.ObjectHandle, error) {
	object, err := s.generateWithout(h, id, label)
	if err != nil {
		return 0, hashGap(h, "generation", err)
	}
	_, err = s.signWith(h, object, probeMessage)
	if refusesKind(err) { // once more, since it would switch the kind off
		_, err = s.signWith(h, object, probeMessage)
	}
	if err == nil {
		return object, nil
	}
	return 0, errors.Join(hashGap(h, "use", err), wrapRV("C_DestroyObject", s.token.c.DestroyObject(s.handle, object)))
}

// generateWithout leaves off what the token may refuse to be told of the uses of a key, where Open could not find that out.
func (s *session) generateWithout(h Hash, id []byte, label string) (object pkcs11.ObjectHandle, err error) {
	off := [][]uint{s.token.facts().off}
	if !s.token.facts().sessionKeys {
		without := slices.DeleteFunc(slices.Clone(notForMAC), func(use uint) bool {
			return use == pkcs11.CKA_ENCRYPT || use == pkcs11.CKA_DECRYPT // AWS CloudHSM
		})
		off = [][]uint{notForMAC, without, nil}
	}
	for _, uses := range off {
		if object, err = s.generateOff(uses, h, id, label); !refusesKind(err) {
			break
		}
	}
	return object, err
}

func (s *session) generateOff(off []uint, h Hash, id []byte, label string) (pkcs11.ObjectHandle, error) {
	t := s.token
	template := t.restricted(t.withLength(t.keyTemplate(off, h, id, label, true), h.KeyBytes()), h)
	object, err := t.c.GenerateKey(s.handle, t.facts().quirk.generateMechanism(h), template)
	return object, wrapRV("C_GenerateKey", err)
}

// hashGap is a *GapError if the token has refused the kind of key.
func hashGap(h Hash, what string, err error) error {
	if !refusesKind(err) {
		return err
	}
	return &GapError{Hash: h, What: what, Err: err}
}

// refusesKind reports whether err is the token's refusal of a kind of key.
func refusesKind(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.refusesKind()
}
