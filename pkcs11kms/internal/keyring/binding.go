package keyring

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// What a token calls itself does not say which one it is: a token that was initialised anew can have the label of the one before, and some
// vendors give all their tokens one serial number. So each region has a key of its own, the binding key, which is made when its token is
// first opened. What this key makes of a text that is always the same, its proof, stands in the store, and a token that answers otherwise
// is another one. It is refused before anything is made in it, and before the janitor takes keys for gone that are in the right one.
//
// The key is an HMAC key or, where the token has no HMAC, an RSA key whose PKCS #1 v1.5 signature is always the same too. A token that has
// neither is known by its serial alone.

// BindingKey is the service key that a token is known again by. Each region has one, in its own token.
const BindingKey = ServicePrefix + "binding"

// bindingText is what the proof is of. It must never change.
var bindingText = []byte("pkcs11kms: this token holds the keys of its region")

// bindingAlgorithm is what a key pair proves by.
var bindingAlgorithm = pubkey.PKCS1SHA256

// BindingError says that the token which the configuration names for a region does not prove to be the one that holds the region's keys.
// It matches token.ErrAnotherToken.
type BindingError struct {
	Region  string
	Advice  string // what it can be, and what to do unless the token is to hold the keys from now on; lines
	problem string
	more    string // what to do if it is
	causes  []error
}

// Error says what differs.
func (e *BindingError) Error() string { return e.problem }

// Unwrap returns token.ErrAnotherToken, and the token's answer.
func (e *BindingError) Unwrap() []error { return e.causes }

// Hint returns lines that say what to do.
func (e *BindingError) Hint() string { return e.Advice + "\n" + e.more }

// RebindCommand is what a person runs who wants another token to hold the keys of a region.
func RebindCommand(region string) string { return "pkcs11kms doctor --rebind " + region }

// misnamed is the error about a token that nobody logged in to.
func misnamed(bound keystore.Region, refused *token.OpenError) error {
	return &BindingError{Region: bound.Name, problem: refused.Error(), causes: []error{refused}, Advice: refused.Hint(),
		more: "if it holds the keys of " + bound.Name + " now, see how many and say so: " + RebindCommand(bound.Name)}
}

// unproven is the error about a token that has not given the proof.
func unproven(bound keystore.Region, names token.Names, what string, causes ...error) error {
	problem := fmt.Sprintf("the token %v does not prove that it holds the keys of %s: its binding key, with the CKA_ID %s, %s",
		names, bound.Name, bound.Binding.CKAID, what)
	if Renamed(bound, names) {
		problem += fmt.Sprintf("; the token that held them called itself %v", NamesIn(bound))
	}
	return &BindingError{Region: bound.Name, problem: problem, causes: causes,
		Advice: "it is another token, was initialised anew, or was restored from a copy that is older than the key:\n" +
			"connect the right one, or correct its URI in config.yaml",
		more: "see which of the keys are in it: pkcs11kms doctor\n" +
			"if it is to hold the keys of " + bound.Name + " from now on: " + RebindCommand(bound.Name)}
}

// prover is a token that makes proofs: a token.Prover, or an opened one.
type prover interface {
	Names() token.Names
	MAC(h token.Hash, id, message []byte) ([]byte, error)
	Sign(spec pubkey.Spec, a pubkey.Algorithm, id, message []byte) ([]byte, error)
}

// opened is a token whose key proves itself while others use it.
type opened struct {
	ctx context.Context
	*token.Token
}

func (o opened) Names() token.Names { return o.Info().Names() }

func (o opened) MAC(h token.Hash, id, message []byte) ([]byte, error) {
	return o.Token.MAC(o.ctx, o.HMACKey(h, id), message)
}

func (o opened) Sign(spec pubkey.Spec, a pubkey.Algorithm, id, message []byte) ([]byte, error) {
	return o.Token.Sign(o.ctx, o.KeyPair(spec, id), a, message)
}

// proofBy makes the proof of a binding key.
func proofBy(p prover, spec string, ckaID []byte) ([]byte, error) {
	if s := MACSpecOf(types.KeySpec(spec)); s != nil {
		return p.MAC(s.Hash, ckaID, bindingText)
	}
	if s := SignSpecOf(types.KeySpec(spec), types.KeyUsageTypeSignVerify); s != nil && s.Pair.Allows(bindingAlgorithm) {
		return p.Sign(s.Pair, bindingAlgorithm, ckaID, bindingText)
	}
	return nil, fmt.Errorf("a binding key of the spec %q makes no proof", spec)
}

// judge asks a token for the proof of a region's binding key. Without one there is nothing to prove.
func judge(bound keystore.Region, p prover) error {
	b := bound.Binding
	if b == nil {
		return nil
	}
	proof, err := proofBy(p, b.Spec, b.CKAID)
	refused, answered := errors.AsType[*token.Error](err)
	switch {
	case err == nil && subtle.ConstantTimeCompare(proof, b.Proof) == 1:
		return nil
	case err == nil:
		return unproven(bound, p.Names(), "answers otherwise than the one that was made for the region", token.ErrAnotherToken)
	case errors.Is(err, token.ErrKeyMissing):
		return unproven(bound, p.Names(), "is not in it", token.ErrAnotherToken, err)
	case answered && refused.Unsupported(), errors.Is(err, token.ErrKeyAmbiguous):
		return unproven(bound, p.Names(), fmt.Sprintf("cannot be used: %v", err), token.ErrAnotherToken, err)
	}
	return fmt.Errorf("asking the token of region %s for its proof: %w", bound.Name, err)
}

// bind makes the binding key of a region whose token was known by its serial alone so far, and keeps its proof. Two processes that begin at
// once make one key. Where no key can be made the token stays known by its serial: that worked until now. The error is a *BindingError if
// another process has bound the region meanwhile, and not to this token.
func (r *Ring) bind(ctx context.Context, in *Region) error {
	err := records.RetryConflicts(ctx, func() error {
		bound, version, err := readRegion(ctx, r.cfg.Store, in.Name)
		switch {
		case err != nil:
			return err
		case bound.Binding != nil:
			return judge(bound, opened{ctx, in.Token})
		case bound.Unable == in.Token.Info().FirmwareVersion:
			return nil
		}
		k, err := r.service(ctx, serviceKey{BindingKey, []string{in.Name}, bindingSpec(in.Token)})
		return r.keepProof(ctx, in, bound, version, k, err)
	})
	if another, ok := errors.AsType[*BindingError](err); ok {
		return another
	}
	if err != nil && ctx.Err() == nil {
		r.cfg.Log.Warn("no key could be made by which the token of a region is known again: its serial alone says which one it is",
			"region", in.Name, "error", err)
	}
	return ctx.Err()
}

// bindingSpec is what a binding key is made of: HMAC if the token can, else RSA.
func bindingSpec(t *token.Token) *Spec {
	for _, name := range []types.KeySpec{types.KeySpecHmac256, types.KeySpecHmac384, types.KeySpecHmac512, types.KeySpecHmac224} {
		if spec := MACSpecOf(name); spec.Gap(t) == nil {
			return spec
		}
	}
	return SpecIn(SignSpecs, types.KeySpecRsa2048)
}

// keepProof binds a region to its token by the proof of a key, or notes that the token can make none: made says how the making went.
func (r *Ring) keepProof(ctx context.Context, in *Region, bound keystore.Region, version uint64, k *Key, made error) error {
	bound = named(bound, in.Token.Info().Names())
	bound.Binding, bound.Unable, bound.Retired = nil, "", nil
	var proof []byte
	if made == nil {
		proof, made = proofBy(opened{ctx, in.Token}, k.Record.Spec, k.Record.CKAID)
	}
	if _, gap := errors.AsType[*token.GapError](made); gap {
		bound.Unable = in.Token.Info().FirmwareVersion
		r.cfg.Log.Warn("the token of a region can make no key by which it is known again: its serial alone says which one it is",
			"region", in.Name, "error", made)
		_, err := r.cache.Commit(ctx, bound.Put(version))
		return err
	}
	if made != nil {
		return made
	}
	bound.Binding = &keystore.Binding{CKAID: k.Record.CKAID, Spec: k.Record.Spec, Proof: proof}
	_, err := r.cache.Commit(ctx, bound.Put(version), keystore.Change{Op: keystore.Check, Ref: k.Record.Ref(), Expect: k.Version})
	return err
}
