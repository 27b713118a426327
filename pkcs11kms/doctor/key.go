package doctor

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// inventory is what a token holds.
type inventory struct {
	objects []token.Object
	token   *token.Token
}

// examineKeys compares every record of the region with its object: the keys of the accounts, and the service keys, which
// are of none. Objects that no record names belong to other applications, other state directories, or to keys newer than
// a restored backup.
func (d *examination) examineKeys(ctx context.Context, region *RegionReport, held inventory) {
	sharing := byCKAID(held.objects)
	for _, account := range append(slices.Clone(d.accounts), "") {
		err := d.eachKey(ctx, region.Name, account, func(record keystore.Key) {
			region.Keys = append(region.Keys, d.examineKey(ctx, record, sharing[string(record.CKAID)], held.token))
			d.examinePolicy(ctx, record)
		})
		if err != nil {
			d.fail("store", region.Name, err)
			return
		}
	}
	d.examineLongest(ctx, region, held.token)
	d.listUnknown(ctx, region, held.objects)
}

// examineLongest finds out by a key that makes MACs whether the token takes messages as long as the API has them.
func (d *examination) examineLongest(ctx context.Context, region *RegionReport, t *token.Token) {
	const most = 4096
	for _, k := range region.Keys {
		spec := keyring.MACSpecOf(types.KeySpec(k.KeySpec))
		id, err := hex.DecodeString(k.CKAID)
		if spec == nil || err != nil || k.Object == nil {
			continue
		}
		longest, err := t.LongestMessage(ctx, t.HMACKey(spec.Hash, id), most)
		if err != nil {
			continue // which examineUse has said
		}
		if longest < most {
			d.advise("token", region.Name, StatusWarning, fmt.Sprintf("takes messages of at most %d bytes for a MAC; the API has %d", longest, most),
				"longer ones are refused with ValidationException: let applications send less, or a hash of their message")
		}
		return
	}
}

// eachKey visits the keys of an account whose records can be read, and reports the others.
func (d *examination) eachKey(ctx context.Context, region, account string, visit func(keystore.Key)) error {
	after := ""
	for {
		recs, err := d.store.List(ctx, keystore.KindKey, region, account, after, keystore.MaxPage)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			after = rec.Ref.ID
			record, err := keystore.DecodeKey(rec)
			if err != nil {
				d.fail("key", rec.Ref.ID, err)
				continue
			}
			visit(record)
		}
		if len(recs) < keystore.MaxPage {
			return nil
		}
	}
}

// examineKey looks at the objects that have the CKA_ID of a key: there should be one secret key, or one private key and its
// public one.
func (d *examination) examineKey(ctx context.Context, record keystore.Key, objects []token.Object, t *token.Token) KeyReport {
	r := KeyReport{KeyID: record.ID, State: string(record.State), KeySpec: record.Spec, CKAID: record.CKAID.String(),
		Adopted: string(record.Adopted), Service: record.Account == ""}
	spec := keyring.MACSpecOf(types.KeySpec(record.Spec))
	signing := keyring.SignSpecOf(types.KeySpec(record.Spec), types.KeyUsageType(record.Usage))
	_, wraps := keyring.WrappingPair(record)
	sharing := objects
	objects = slices.DeleteFunc(slices.Clone(objects), func(o token.Object) bool {
		pair := signing != nil || wraps
		return !pair && !o.SecretKey() || pair && !o.PrivateKey()
	})
	if len(objects) > 0 {
		o := objectReport(objects[0])
		r.Object = &o
	}
	switch {
	case record.State.Unfinished():
		d.examineUnfinished(ctx, record)
	case record.Import != nil && !record.Import.Held:
		d.examineEmpty(ctx, record, objects)
		return r
	case isSecretsKey(record) && d.secretsVoid(ctx, record, t):
		return r
	case len(objects) == 0:
		d.advise("key", record.ID, StatusError, "has no object in the token: the key cannot be used",
			"restore the token from the HSM's backup, or look for the token that has the CKA_ID "+r.CKAID)
	case len(objects) > 1:
		d.advise("key", record.ID, StatusError, fmt.Sprintf("%d objects of the token share its CKA_ID: the key cannot be used", len(objects)),
			"find out who made the other one, and destroy or change that: its CKA_ID is "+r.CKAID)
	case wraps:
		d.examineWrapping(record, objects[0])
	case record.Adopted != "" && spec != nil:
		d.examineAdopted(record, spec, objects[0], t.Capabilities().AllowedMechanisms)
	case signing != nil && signing.NotApproved() != nil:
		d.examineNotApproved(record)
	case signing != nil:
		d.examinePair(ctx, record, signing, objects[0], t)
	default:
		d.examineOwn(record, objects[0], otherLength(spec, objects[0], record.Import != nil)...)
	}
	if len(objects) == 1 && !record.State.Unfinished() {
		d.examineLabels(record, objects[0], sharing)
		if spec != nil {
			d.examineUse(ctx, record, t.HMACKey(spec.Hash, record.CKAID), t)
		}
	}
	return r
}

// examineLabels warns of a key, or of a half of one, that has another label than it was made or adopted with: operators relabel. Keys are
// used whatever their label, but of our own only what has it is destroyed with its record.
func (d *examination) examineLabels(record keystore.Key, object token.Object, sharing []token.Object) {
	want, text := record.ID, "its %s has the label %q, and was made with %q"
	hint := "the key works as before; give the object its label back before the key is deleted: with another one it is left in the token"
	if record.Adopted != "" {
		want, text = record.Label, "its adopted %s has the label %q, and had %q when it was adopted"
		hint = "nothing, if somebody has renamed it: the key works as before"
		if want == "" {
			return // or it is not on record
		}
	}
	for _, o := range sharing {
		half := object.PrivateKey() && o.Class != object.Class && !o.SecretKey()
		if label := strings.ToValidUTF8(o.Label, "\uFFFD"); label != want && (o.Class == object.Class || half) {
			d.advise("key", record.ID, StatusWarning, fmt.Sprintf(text, o.ClassName(), label, want), hint)
		}
	}
}

func isSecretsKey(record keystore.Key) bool {
	_, ok := keyring.EpochOf(keyring.SecretsKey, record.ID)
	return ok && record.Account == ""
}

// secretsVoid tells whether the service key of access keys is of no use any more, and reports it then.
func (d *examination) secretsVoid(ctx context.Context, record keystore.Key, t *token.Token) bool {
	fault, err := keyring.SecretsFault(ctx, t, record)
	if err != nil || fault == "" {
		return false // what is wrong otherwise is said of it as of every key
	}
	d.advise("key", record.ID, StatusError, fault+". No request can be authenticated by an access key that was made before",
		"restore the token from the HSM's backup; or have the key made anew, by which the secrets of all access keys become\n"+
			"void: pkcs11kms doctor --repair")
	return true
}

// examineUse makes a MAC: that there is an object, and what it says of itself, does not prove that it can be used.
func (d *examination) examineUse(ctx context.Context, record keystore.Key, k *token.Key, t *token.Token) {
	if _, err := t.MAC(ctx, k, []byte("pkcs11kms doctor")); err != nil {
		d.advise("key", record.ID, StatusError, fmt.Sprintf("makes no MAC: %v", err),
			"if the token serves other keys, its object is damaged: restore the token from the HSM's backup")
	}
}

// otherLength tells whether an object has the length that its key was made with.
func otherLength(spec *keyring.Spec, o token.Object, imported bool) []string {
	if spec != nil && !imported && o.ValueLen != 0 && o.ValueLen != spec.Hash.KeyBytes() {
		return []string{"another length"}
	}
	return nil
}

// examinePair looks at the public key in the token and at that of the record, which Verify and GetPublicKey use. Without the
// one in the token nothing is amiss, but who edits the record may have removed that: a signature is the proof that the
// record's is the private key's. It is verified and forgotten.
func (d *examination) examinePair(ctx context.Context, record keystore.Key, spec *keyring.Spec, private token.Object, t *token.Token) {
	judge := func(wrong ...string) {
		if record.Adopted != "" && len(wrong) == 0 {
			d.examineAdopted(record, spec, private, t.Capabilities().AllowedMechanisms)
			return
		}
		d.examineOwn(record, private, wrong...)
	}
	pair := t.KeyPair(spec.Pair, record.CKAID)
	held, err := t.PublicKey(ctx, pair)
	switch {
	case err != nil && !errors.Is(err, token.ErrKeyMissing):
		judge(fmt.Sprintf("no public key that can be read (%v)", err))
		return
	case err == nil && !bytes.Equal(held.DER(), record.PublicKey):
		judge("another public key than the record")
		return
	}
	public, err := pubkey.Parse(spec.Pair, record.PublicKey)
	if err != nil {
		d.fail("key", record.ID, fmt.Errorf("public key of the record: %w", err))
		return
	}
	message := []byte("pkcs11kms doctor")
	var algorithm pubkey.Algorithm
	var signature []byte
	err = t.ByFirst(spec.Pair, func(a pubkey.Algorithm) (err error) {
		algorithm = a
		signature, err = t.Sign(ctx, pair, a, message)
		return err
	})
	if err != nil {
		d.advise("key", record.ID, StatusError, fmt.Sprintf("the token does not sign with its object: %v", err),
			"find out what has changed in the token or its configuration; if it stays so, create a new key and retire this one")
		return
	}
	if public.VerifyMessage(algorithm, message, signature) != nil {
		judge("signatures that are not valid by the record's public key")
		return
	}
	judge()
}

// examineOwn compares an object with what CreateKey asked the token for; more is what else is wrong with it.
func (d *examination) examineOwn(record keystore.Key, o token.Object, more ...string) {
	wrong := exposure(o)
	if record.Import != nil {
		wrong = exposureNow(o)
	}
	if !o.Sign {
		wrong = append(wrong, "cannot sign")
	}
	wrong = append(wrong, more...)
	if len(wrong) > 0 {
		d.advise("key", record.ID, StatusError, "its object is not as it was made: "+strings.Join(wrong, ", "),
			"find out who changed it; create a new key and retire this one")
		return
	}
	d.sound(record)
}

// examineAdopted holds nothing against an adopted object that was known when it was adopted, but says it.
func (d *examination) examineAdopted(record keystore.Key, spec *keyring.Spec, o token.Object, restricts bool) {
	switch weak := adoptedWeaknesses(o, spec, restricts); {
	case !o.Sign:
		d.advise("key", record.ID, StatusError, "its adopted object cannot sign", "find out who changed it; create a new key and retire this one")
	case len(weak) > 0:
		d.advise("key", record.ID, StatusWarning, "its adopted object is "+strings.Join(weak, ", "),
			"keys of create-key are generated in the token and never leave it: let the users of this one change to such a key")
	default:
		d.sound(record)
	}
}

func (d *examination) sound(record keystore.Key) {
	d.add("key", record.ID, StatusOK, fmt.Sprintf("%s, %s, object %s", record.Spec, record.State, record.CKAID))
}

// examineUnfinished says of a key that is half made or half deleted who will finish it.
func (d *examination) examineUnfinished(ctx context.Context, record keystore.Key) {
	text := fmt.Sprintf("is half made (%s)", record.State)
	if record.Import != nil {
		text = "has key material that is being imported or deleted"
	}
	free, err := d.store.TakeOver(ctx, record.Instance)
	if err == nil {
		free(false)
	}
	if !errors.Is(err, keystore.ErrUndecided) {
		d.advise("key", record.ID, StatusWarning, text, "nothing: the process that works on it, or the next one that is started, finishes it")
		return
	}
	d.advise("key", record.ID, StatusWarning, text+", by a process of which nobody can say whether it is alive: the machine was "+
		"restarted since, or this is a copy or a restored backup of the state directory. It stays as it is, invisible, and its object is "+
		"left alone",
		"where this is no copy, remove it: pkcs11kms doctor --repair --undecided")
}
