package token

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// A token's names do not say which token it is: one that was initialised anew can have the label of the one before, a copy has all names of
// the original, and some vendors give all their tokens one serial number. So the names choose candidates, and whoever opens a token
// decides by what the token can do: Config.Prove is asked each time that somebody has logged in, before anything is made and before any
// call is let in.

// ErrAnotherToken says that a token does not prove to be the one that is meant, whatever it calls itself. Config.Prove answers so.
var ErrAnotherToken = errors.New("it is another token")

// errUnseen says that an object was missing while the module shows fewer objects than there are files.
var errUnseen = errors.New("the module does not see all objects of the token")

// isAnother reports whether the token was found to be another one. While objects are out of sight that cannot be told.
func isAnother(err error) bool { return errors.Is(err, ErrAnotherToken) && !errors.Is(err, errUnseen) }

// Prover is a token that somebody has just logged in to. It is good for as long as Config.Prove runs.
type Prover struct {
	session *session
	names   Names
}

// Names are what the token calls itself.
func (p Prover) Names() Names { return p.names }

// MAC makes the HMAC of a message by the key with this CKA_ID. It returns ErrKeyMissing if there is none.
func (p Prover) MAC(h Hash, id, message []byte) (tag []byte, err error) {
	key := p.session.token.HMACKey(h, id)
	err = p.try(func() error {
		tag, err = p.session.mac(key, message)
		return err
	})
	return tag, err
}

// Sign signs a message by the key pair with this CKA_ID. It returns ErrKeyMissing if there is none.
func (p Prover) Sign(spec pubkey.Spec, a pubkey.Algorithm, id, message []byte) (signature []byte, err error) {
	pair := p.session.token.KeyPair(spec, id)
	err = p.try(func() error {
		return p.session.withObject(&pair.named, func(object pkcs11.ObjectHandle) error {
			signature, err = p.session.signPair(spec, object, a, message, false)
			return err
		})
	})
	return signature, err
}

// try replaces the session if an operation may have been left active on it.
func (p Prover) try(use func() error) error {
	err := use()
	if !keepsSession(err) {
		err = errors.Join(err, p.session.renew())
	}
	return err
}

// prove asks whether the token is the one that is meant. If it is not, or cannot be asked, nobody stays logged in to it.
func (t *Token) prove(ctx context.Context, f found) error {
	if t.cfg.Prove == nil {
		return nil
	}
	err := t.keeper.session.run(&operation{run: func(s *session, _ []byte) error { return t.cfg.Prove(ctx, Prover{s, f.names()}) }}, nil)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrKeyMissing) && t.facts().quirk.losesSight {
		if lost, lookErr := t.lostSight(); lost && lookErr == nil {
			err = fmt.Errorf("%w: %w", err, errUnseen)
		}
	}
	t.leave()
	return err
}

// leave ends the login to a token that is not used.
func (t *Token) leave() {
	if s := t.keeper.session; s.open {
		t.closeLeft(s.takeOff())
	}
}
