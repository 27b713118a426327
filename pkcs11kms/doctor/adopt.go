package doctor

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/uuid"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// AdoptOptions names an object of a token and says what key it becomes. KeySpec and exactly one of Label and ID are
// required.
type AdoptOptions struct {
	Label       string        // CKA_LABEL
	ID          []byte        // CKA_ID
	KeySpec     types.KeySpec // one of pkcs11kms.KeySpecs
	Description string
	// DestroyWithKey has the object destroyed when the key is deleted. Otherwise only the record goes then.
	DestroyWithKey bool
}

// maxAdoptedBytes is the longest HMAC key that AWS KMS imports, for every spec. The shortest is what it would generate.
const maxAdoptedBytes = 128

// AdoptKey takes a secret key or a key pair that is in the token already, made by whatever application, under management: it becomes an
// enabled key of the account with a new key id. The object itself is not changed. What counts is what it does when it is tried, not
// whether the token could make such a key. The second result says what is weaker
// about it than about keys of CreateKey. What cannot be adopted is refused with a *pkcs11kms.RefusedError. The token is that of the
// client's region; its caller needs the permission pkcs11kms:AdoptKey.
func AdoptKey(ctx context.Context, c *pkcs11kms.Client, o AdoptOptions) (m *types.KeyMetadata, weaknesses []string, err error) {
	in := map[string]any{"region": c.Region(), "label": o.Label, "ckaId": hex.EncodeToString(o.ID), "keySpec": o.KeySpec,
		"deletion": o.deletion()}
	err = pkcs11kms.Administer(ctx, c, ops.AdoptKey, in, func(ctx context.Context, inside *core.Core, precondition []keystore.Change) error {
		m, weaknesses, err = adoptKey(ctx, c, inside, o, precondition)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return m, weaknesses, nil
}

// deletion is what becomes of the object when the key is deleted.
func (o AdoptOptions) deletion() keystore.Adoption {
	if o.DestroyWithKey {
		return keystore.AdoptedDestroy
	}
	return keystore.AdoptedKeep
}

func adoptKey(ctx context.Context, c *pkcs11kms.Client, inside *core.Core, o AdoptOptions, precondition []keystore.Change) (
	*types.KeyMetadata, []string, error) {
	spec, err := o.check()
	if err != nil {
		return nil, nil, err
	}
	t := inside.Keys.Region(c.Region()).Token
	objects, err := t.Objects(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for the object: %w", err)
	}
	object, err := o.choose(objects)
	if err != nil {
		return nil, nil, err
	}
	public, without, err := adoptable(ctx, inside.Store, t, spec, object)
	if err != nil {
		return nil, nil, err
	}
	record := keystore.Key{Region: c.Region(), Account: c.Caller().Account(), ID: uuid.NewString(), Description: o.Description,
		CKAID: object.ID, PublicKey: public, Adopted: o.deletion(), Label: object.Label}
	m, err := adopt(ctx, inside, spec, record, precondition)
	if err != nil {
		return nil, nil, err
	}
	weaknesses := adoptedWeaknesses(object, spec, t.Capabilities().AllowedMechanisms)
	if len(without) > 0 {
		weaknesses = append(weaknesses, "of no use for "+joined(spec.NamesOf(without)))
	}
	return m, weaknesses, nil
}

// check refuses options that make no sense whatever the token holds.
func (o AdoptOptions) check() (*keyring.Spec, error) {
	if (o.Label == "") == (len(o.ID) == 0) {
		return nil, refused("exactly one of the label and the CKA_ID of the object must be given",
			"name the object by --label or by --id", nil)
	}
	if utf8.RuneCountInString(o.Description) > 8192 {
		return nil, refused("the description is over 8192 characters", "shorten it", nil)
	}
	if spec := keyring.SpecOf(o.KeySpec); spec != nil {
		return spec, nil
	}
	var names []string
	for _, spec := range pkcs11kms.KeySpecs() {
		names = append(names, string(spec))
	}
	return nil, refused(fmt.Sprintf("keys of the spec %q cannot be adopted", o.KeySpec), "use one of "+strings.Join(names, ", "), nil)
}

const setID = "pkcs11-tool --module MODULE --login --type secrkey --label LABEL --set-id HEX"

// choose returns the one object that is meant, and that can be told from all others by its CKA_ID. A private key is meant with its
// public one.
func (o AdoptOptions) choose(objects []token.Object) (token.Object, error) {
	var none token.Object
	what := fmt.Sprintf("the label %q", o.Label)
	meant := func(object token.Object) bool { return object.Label == o.Label }
	if o.Label == "" {
		what = "the CKA_ID " + hex.EncodeToString(o.ID)
		meant = func(object token.Object) bool { return bytes.Equal(object.ID, o.ID) }
	}
	found := slices.DeleteFunc(slices.Clone(objects), func(object token.Object) bool {
		return !meant(object) || slices.ContainsFunc(objects, object.PublicHalfOf)
	})
	switch {
	case len(found) == 0:
		return none, refused("no key object of the token has "+what, "see which objects the token holds: pkcs11kms doctor", nil)
	case len(found) > 1 && o.Label != "":
		return none, refused(fmt.Sprintf("%d key objects of the token have %s", len(found), what),
			"name one by --id: "+idsOf(found), nil)
	case len(found[0].ID) == 0:
		return none, refused("the object has an empty CKA_ID, by which it could not be found again", "give it one: "+setID, nil)
	}
	id := found[0].ID
	sharing := slices.DeleteFunc(slices.Clone(objects), func(object token.Object) bool {
		return !bytes.Equal(object.ID, id) || object.PublicHalfOf(found[0])
	})
	if len(sharing) > 1 {
		return none, refused(fmt.Sprintf("%d key objects of the token share the CKA_ID %x", len(sharing), id),
			"give the object a CKA_ID of its own: "+setID, nil)
	}
	return found[0], nil
}

func idsOf(objects []token.Object) string {
	var ids []string
	for _, object := range objects {
		ids = append(ids, hex.EncodeToString(object.ID))
	}
	return strings.Join(ids, ", ")
}

// adoptable examines the object, then tries it. Of a pair it returns the public key, and the algorithms by which it does not sign although
// the token may.
func adoptable(ctx context.Context, store keystore.Store, t *token.Token, spec *keyring.Spec, object token.Object) (
	public []byte, without []pubkey.Algorithm, err error) {
	if refusal := unfit(spec, object); refusal != nil {
		return nil, nil, refusal
	}
	if err := unmanaged(ctx, store, object.ID); err != nil {
		return nil, nil, err
	}
	if spec.Pair.Valid() {
		half, without, err := t.TryPair(ctx, t.KeyPair(spec.Pair, object.ID))
		if err != nil {
			return nil, nil, untrue(ctx, err, fmt.Sprintf("the object and its public key do not make the signatures of %s keys", spec.Name))
		}
		others := slices.DeleteFunc(without, func(a pubkey.Algorithm) bool { return !t.Makes(spec.Pair, a) })
		return half.DER(), others, nil
	}
	_, err = t.MAC(ctx, t.HMACKey(spec.Hash, object.ID), []byte("pkcs11kms adopt-key"))
	return nil, nil, untrue(ctx, err, "the token does not make a MAC with the object")
}

// untrue is what the trial of an object has shown.
func untrue(ctx context.Context, err error, problem string) error {
	var hung *token.HungError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, token.ErrGone), errors.Is(err, token.ErrBusy), errors.As(err, &hung), ctx.Err() != nil:
		return fmt.Errorf("trying the object: %w", err) // which says nothing of the object
	}
	return refused(problem, "use another --key-spec, or create a new key", err)
}

func unfit(spec *keyring.Spec, object token.Object) error {
	const fresh = "create a new key, and let its users change to it"
	fit := fmt.Sprintf("%s takes keys of %d to %d bytes", spec.Name, spec.Hash.KeyBytes(), maxAdoptedBytes)
	switch {
	case strings.HasPrefix(object.Label, keyring.ServicePrefix):
		return refused("the object is a service key: a key of this program's own", "leave it alone", nil)
	case spec.Pair.Valid():
		return unfitPair(spec, object)
	case !object.HMACKey(spec.Hash):
		return refused(
			fmt.Sprintf("the object (%s, key type %#x) is no secret key for HMACs with %v", object.ClassName(), object.KeyType, spec.Hash),
			"adopt a CKK_GENERIC_SECRET", nil)
	case object.ValueLen == 0:
		return refused("the token does not tell the length of the object (CKA_VALUE_LEN)", fresh, nil)
	case object.ValueLen < spec.Hash.KeyBytes() || object.ValueLen > maxAdoptedBytes:
		return refused(fmt.Sprintf("the object has %d bytes, and %s", object.ValueLen, fit),
			"use the --key-spec that fits, or "+fresh, nil)
	case !object.Sign:
		return refused("the object may not sign (CKA_SIGN is false)", fresh, nil)
	case !object.Allows(spec.Hash):
		return refused(fmt.Sprintf("the object does not allow HMACs with %v (CKA_ALLOWED_MECHANISMS)", spec.Hash),
			"use the --key-spec that it allows", nil)
	}
	return nil
}

func unfitPair(spec *keyring.Spec, object token.Object) error {
	switch {
	case !object.SigningKey(spec.Pair):
		return refused(fmt.Sprintf("the object (%s, key type %#x) is no private key of %s", object.ClassName(), object.KeyType, spec.Name),
			"use the --key-spec that fits", nil)
	case !object.Sign:
		return refused("the object may not sign (CKA_SIGN is false)", "create a new key, and let its users change to it", nil)
	}
	return nil
}

// unmanaged refuses an object that a record of the store, in whatever region and state, names.
func unmanaged(ctx context.Context, store keystore.Store, ckaID []byte) error {
	recs, err := store.Lookup(ctx, keystore.IndexCKAID, hex.EncodeToString(ckaID), keystore.Ref{}, 1)
	if err != nil || len(recs) == 0 {
		return err
	}
	return managed(ckaID, recs[0].Ref.ID+" in "+recs[0].Ref.Region)
}

func managed(ckaID []byte, by string) error {
	return refused(fmt.Sprintf("the object with the CKA_ID %x belongs to the key %s already", ckaID, by),
		"use that key: pkcs11kms list-keys", keystore.ErrExists)
}

func adopt(ctx context.Context, inside *core.Core, spec *keyring.Spec, record keystore.Key, precondition []keystore.Change) (
	*types.KeyMetadata, error) {
	key, err := inside.Keys.Adopt(ctx, spec, record, precondition)
	if errors.Is(err, keystore.ErrExists) {
		return nil, managed(record.CKAID, "of somebody who was faster,")
	}
	if err != nil {
		return nil, err
	}
	inside.Log.Info("adopted an object of the token", "key", record.ID, "cka_id", record.CKAID.String(), "at_deletion", string(record.Adopted))
	return key.Metadata(), nil
}

// exposure tells through what the value of a key may have become known, or can be used, beside this service.
func exposure(o token.Object) (weak []string) {
	weak = exposureNow(o)
	if o.Sensitive && !o.AlwaysSensitive {
		weak = append(weak, "not always sensitive")
	}
	if !o.Extractable && !o.NeverExtractable {
		weak = append(weak, "extractable at some time")
	}
	return weak
}

// exposureNow leaves aside what the object was before: a key that was imported has been outside.
func exposureNow(o token.Object) (weak []string) {
	if !o.Sensitive {
		weak = append(weak, "not sensitive")
	}
	if o.Extractable {
		weak = append(weak, "extractable")
	}
	if !o.Private {
		weak = append(weak, "not private")
	}
	return weak
}

// adoptedWeaknesses tells what is weaker about an adopted object than about our own. A token that does not restrict keys
// to mechanisms does not do so with our own either.
func adoptedWeaknesses(o token.Object, spec *keyring.Spec, restricts bool) []string {
	weak := exposure(o)
	if !o.Local {
		weak = append(weak, "not generated in the token")
	}
	switch {
	case !restricts:
	case spec.Pair.Valid():
		if !o.AllowsOnlySignatures(spec.Pair) {
			weak = append(weak, fmt.Sprintf("usable with other mechanisms than the signatures of %s keys", spec.Name))
		}
	case !o.AllowsOnly(spec.Hash):
		weak = append(weak, fmt.Sprintf("usable with other mechanisms than the HMAC with %v", spec.Hash))
	}
	return weak
}

// refused is why a request is refused, what to do, and the cause, which may be nil.
func refused(problem, advice string, cause error) error {
	return &pkcs11kms.RefusedError{Problem: problem, Advice: advice, Err: cause}
}
