package pkcs11kms

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// inventory is what a token holds, and whether it restricts keys to mechanisms.
type inventory struct {
	objects   []token.Object
	restricts bool
}

// examineKeys compares every record of the region with its object: the keys of the account, and the service keys, which
// are of none. Objects that no record names belong to other applications, other state directories, or to keys newer than
// a restored backup.
func (d *doctor) examineKeys(ctx context.Context, region *RegionReport, held inventory) {
	byID := map[string][]token.Object{}
	for _, o := range held.objects {
		if o.SecretKey() {
			byID[string(o.ID)] = append(byID[string(o.ID)], o)
		}
	}
	for _, account := range []string{d.cfg.AccountID, ""} {
		err := d.eachKey(ctx, region.Name, account, func(record keystore.Key) {
			region.Keys = append(region.Keys, d.examineKey(record, byID[string(record.CKAID)], held.restricts))
			d.examinePolicy(ctx, record)
		})
		if err != nil {
			d.fail("store", region.Name, err)
			return
		}
	}
	d.listUnknown(ctx, region, held.objects)
}

// eachKey visits the keys of an account whose records can be read, and reports the others.
func (d *doctor) eachKey(ctx context.Context, region, account string, visit func(keystore.Key)) error {
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

// examineKey looks at the objects that have the CKA_ID of a key: there should be one.
func (d *doctor) examineKey(record keystore.Key, objects []token.Object, restricts bool) KeyReport {
	r := KeyReport{KeyID: record.ID, State: string(record.State), KeySpec: record.Spec, CKAID: record.CKAID.String(), Adopted: string(record.Adopted)}
	if len(objects) > 0 {
		o := objectReport(objects[0])
		r.Object = &o
	}
	spec := macSpecOf(types.KeySpec(record.Spec))
	switch {
	case record.State.Unfinished():
		d.advise("key", record.ID, StatusWarning, fmt.Sprintf("is half made (%s)", record.State),
			"nothing: the process that works on it, or the next one that is started, finishes it. In a copy or a restored\n"+
				"backup of the state directory it stays as it is, invisible, and its object is left alone")
	case len(objects) == 0:
		d.advise("key", record.ID, StatusError, "has no object in the token: the key cannot be used",
			"restore the token from the HSM's backup, or look for the token that has the CKA_ID "+r.CKAID)
	case len(objects) > 1:
		d.advise("key", record.ID, StatusError, fmt.Sprintf("%d objects of the token share its CKA_ID: the key cannot be used", len(objects)),
			"find out who made the other one, and destroy or change that: its CKA_ID is "+r.CKAID)
	case record.Adopted != "" && spec != nil:
		d.examineAdopted(record, spec, objects[0], restricts)
	default:
		d.examineOwn(record, spec, objects[0])
	}
	return r
}

// examineOwn compares an object with what CreateKey asked the token for.
func (d *doctor) examineOwn(record keystore.Key, spec *macSpec, o token.Object) {
	wrong := exposure(o)
	if !o.Sign {
		wrong = append(wrong, "cannot sign")
	}
	if o.Label != record.ID {
		wrong = append(wrong, "another label")
	}
	if spec != nil && o.ValueLen != 0 && o.ValueLen != spec.hash.KeyBytes() {
		wrong = append(wrong, "another length")
	}
	if len(wrong) > 0 {
		d.advise("key", record.ID, StatusError, "its object is not as it was made: "+strings.Join(wrong, ", "),
			"find out who changed it; create a new key and retire this one")
		return
	}
	d.sound(record)
}

// examineAdopted holds nothing against an adopted object that was known when it was adopted, but says it.
func (d *doctor) examineAdopted(record keystore.Key, spec *macSpec, o token.Object, restricts bool) {
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

func (d *doctor) sound(record keystore.Key) {
	d.add("key", record.ID, StatusOK, fmt.Sprintf("%s, %s, object %s", record.Spec, record.State, record.CKAID))
}
