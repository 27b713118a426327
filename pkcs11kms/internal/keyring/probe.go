package keyring

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// probePrefix begins the id of a record that is made to try the token. With its random end it is as long as the ids of keys are.
const probePrefix = ServicePrefix + "probe/"

// keyIDLength is that of the ids of keys.
const keyIDLength = 36

// newProbeID returns an id that no record has.
func newProbeID() string {
	random := make([]byte, keyIDLength)
	rand.Read(random) // never fails, see crypto/rand
	return (probePrefix + hex.EncodeToString(random))[:keyIDLength]
}

// Untried tells whether nobody can know what the token does with keys of the spec before one is made in it: it makes none that end with
// their session. Where it does make such keys, Untried tries the spec by them.
func (s *Spec) Untried(ctx context.Context, t *token.Token) (bool, error) {
	if !s.Pair.Valid() {
		return errors.Is(t.Capabilities().For(s.Hash).Err(), token.ErrUntried), nil
	}
	err := t.ProbeKeyPair(ctx, s.Pair)
	if _, gap := errors.AsType[*token.GapError](err); gap {
		return false, nil
	}
	if errors.Is(err, token.ErrUntried) {
		return true, nil
	}
	return false, err
}

// Probe makes a key of the spec in the token, as Make does, uses it, and destroys it again. What that has shown, Gap and Signing know
// afterwards. The record is one in the state Creating from the beginning to the end, so that the janitor destroys the object if this
// process dies. The error is a *token.GapError if the token cannot make or use such keys, and keystore.ErrConflict if what precondition
// names has changed.
func (r *Ring) Probe(ctx context.Context, in *Region, spec *Spec, precondition []keystore.Change) error {
	if err := in.Token.Await(ctx); err != nil {
		return err
	}
	err := in.withFreeID(in.NewRecord("", newProbeID()), func(record keystore.Key) error {
		return r.tryProbe(ctx, in, spec, record, precondition)
	})
	r.keepLearnt(ctx, in)
	return err
}

func (r *Ring) tryProbe(ctx context.Context, in *Region, spec *Spec, record keystore.Key, precondition []keystore.Change) error {
	made, err := r.generate(ctx, in, spec, record, place{others: precondition})
	if err != nil {
		return err
	}
	defer made.done()
	ctx, cancel := r.outlast(ctx) // what is made is removed
	defer cancel()
	_, err = r.Finish(ctx, made.record, made.version)
	return err
}
