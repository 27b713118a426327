package keyring

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/envelope"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// material is what an envelope holds, which the token, or in the other way this process, was able to open.
type material struct {
	spec     *Spec
	tag      []byte // its MAC of materialText
	text     []byte
	token    *token.Token
	wrapped  token.Wrapped
	software bool
	value    []byte // of software
}

func (m *material) clear() { clear(m.value) }

// keep makes the object of a key.
func (m *material) keep(ctx context.Context, ckaID keystore.HexBytes, label string) (err error) {
	if m.software {
		_, err = m.token.ImportHMACKey(ctx, m.spec.Hash, ckaID, label, m.value)
		return err
	}
	_, err = m.token.UnwrapHMACKey(ctx, m.wrapped, m.spec.Hash, ckaID, label)
	return err
}

// kept makes sure that the object is what the envelope held.
func (m *material) kept(ctx context.Context, ckaID keystore.HexBytes) error {
	tag, err := m.token.MAC(ctx, m.token.HMACKey(m.spec.Hash, ckaID), m.text)
	if err == nil && subtle.ConstantTimeCompare(tag, m.tag) != 1 {
		err = fmt.Errorf("importing key material: %w: the object makes other MACs than the envelope's key", token.ErrMalformed)
	}
	return err
}

// openMaterial opens an envelope, if the import token is good, for as long as it takes to make a MAC.
func (r *Ring) openMaterial(ctx context.Context, in *Region, k *Key, text, blob []byte) (*material, error) {
	said, a, err := r.readImportToken(ctx, in, k, text)
	if err != nil {
		return nil, err
	}
	spec, err := importSpec(k.Record)
	if err != nil {
		return nil, err
	}
	wrapping, err := r.serviceIn(ctx, in.Name, said.Pair)
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, ErrImportTokenExpired // the token is ours, and its pair has gone
	}
	if err != nil {
		return nil, err
	}
	opening, ok := WrappingPair(wrapping.Record)
	public, err := rsaOf(wrapping.Record)
	if !ok || err != nil {
		return nil, errors.Join(ErrImportToken, err)
	}
	head, tail, err := a.Split(blob, public.Size(), envelope.MaxMaterial)
	if err != nil {
		return nil, ErrEnvelopeClosed
	}
	m := &material{spec: spec, text: materialText(k), token: in.Token, software: opening == token.Decrypts,
		wrapped: token.Wrapped{Pair: wrapping.Record.CKAID, Algorithm: a, Head: head, Tail: tail}}
	if m.software {
		err = r.openInMemory(ctx, in, m)
	} else {
		err = m.openInToken(ctx)
	}
	if err != nil {
		m.clear()
		return nil, err
	}
	return m, nil
}

func (m *material) openInToken(ctx context.Context) (err error) {
	if err = m.token.Opens(ctx, m.wrapped.Algorithm); err != nil { // which knows how, in this process
		return err
	}
	m.tag, err = m.token.MACOfWrapped(ctx, m.wrapped, m.spec.Hash, m.text)
	return materialError(err)
}

// openInMemory opens an envelope by what the token makes of its head. Which step fails is not told, not even by the time.
func (r *Ring) openInMemory(ctx context.Context, in *Region, m *material) error {
	if !r.SoftwareUnwraps(in) { // any more
		return ErrImportToken
	}
	encoded, err := m.token.DecryptRaw(ctx, m.wrapped.Pair, m.wrapped.Head)
	if err != nil {
		return materialError(err)
	}
	if m.value, err = m.wrapped.Algorithm.Open(encoded, m.wrapped.Tail); err != nil {
		return ErrEnvelopeClosed
	}
	if len(m.value) < m.spec.Hash.KeyBytes() || len(m.value) > envelope.MaxMaterial {
		return ErrMaterialLength
	}
	m.tag, err = m.token.MACOfValue(ctx, m.spec.Hash, m.value, m.text)
	return materialError(err)
}

func materialError(err error) error {
	switch {
	case errors.Is(err, token.ErrEnvelope):
		return ErrEnvelopeClosed
	case errors.Is(err, token.ErrKeyLength):
		return ErrMaterialLength
	}
	return err
}
