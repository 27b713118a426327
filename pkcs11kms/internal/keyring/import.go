package keyring

import (
	"context"
	"crypto/fips140"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/envelope"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Key material is imported in steps like those in which a key is made, and whoever dies between two of them leaves something that the
// janitor can finish:
//
//  1. the envelope is opened for an object that ends with the session, to know that it can be, and that the material is the same as before;
//  2. the record names the instance that works on it. It has no material as yet, so nobody uses it;
//  3. the object in the token, with the CKA_ID that the record has;
//  4. the record again: it holds the material now, and is Enabled.
//
// When step 3 or 4 fails, the object is destroyed and the record names no instance any more. Material is taken away by the same way
// backwards: the record first. Material that is imported again while it is there is compared, and nothing but its expiry is changed.

// The errors of an import, beside those of import tokens.
var (
	ErrEnvelopeClosed = errors.New("the encrypted key material could not be decrypted")
	ErrOtherMaterial  = errors.New("the key material is not the one that was imported before")
	ErrMaterialLength = errors.New("the key material has a length that the key spec does not allow")
)

// Commit changes the store, if what permits the change is as it was.
type Commit func(context.Context, ...keystore.Change) (uint64, error)

// ImportWay says how the envelopes of a region are opened.
type ImportWay string

// The ways.
const (
	ImportDefault  ImportWay = ""                // by the token; with a SoftHSM token, which is no HSM anyway, as with ImportSoftware
	ImportByToken  ImportWay = "token"           // what the token does not open is refused
	ImportSoftware ImportWay = "software-unwrap" // what the token does not open is opened in the memory of this process
)

// SoftwareUnwraps tells whether a region's envelopes may be opened in the memory of this process. In FIPS 140-3 mode they may not.
func (r *Ring) SoftwareUnwraps(in *Region) bool {
	return SoftwareUnwraps(r.cfg.Import[in.Name], in.Token.Info())
}

// SoftwareUnwraps is the rule for that.
func SoftwareUnwraps(way ImportWay, info token.Info) bool {
	if fips140.Enabled() {
		return false
	}
	return way == ImportSoftware || way == ImportDefault && strings.HasPrefix(info.Manufacturer, "SoftHSM")
}

// ImportParameters are what somebody needs who is to put key material into an envelope.
type ImportParameters struct {
	Token     []byte
	PublicKey []byte // DER SubjectPublicKeyInfo
	ValidTo   time.Time
}

// ImportParameters makes them for a key of origin EXTERNAL. A *token.EnvelopeGapError says that the token does not open such an envelope,
// and that the region's configuration does not let this process.
func (r *Ring) ImportParameters(ctx context.Context, k *Key, a envelope.Algorithm, pair pubkey.Spec) (ImportParameters, error) {
	in := r.regions[k.Record.Region]
	opening := token.Unwraps
	if err := in.Token.Opens(ctx, a); err != nil {
		if _, gap := errors.AsType[*token.EnvelopeGapError](err); !gap || !r.SoftwareUnwraps(in) {
			return ImportParameters{}, err
		}
		opening = token.Decrypts
	}
	wrapping, err := r.wrappingPair(ctx, in, pair, opening)
	if err != nil {
		return ImportParameters{}, err
	}
	until := r.Later().Add(ImportTokenLife).UTC().Truncate(time.Second)
	text, err := r.newImportToken(ctx, in, importToken{Key: k.ARN, Pair: wrapping.Record.ID, Algorithm: a.Name, NotAfter: until.Unix(),
		Removed: k.Record.Import.Removed})
	return ImportParameters{Token: text, PublicKey: wrapping.Record.PublicKey, ValidTo: until}, err
}

// Opened returns the envelopes that a region's token opens by itself.
func (r *Ring) Opened(ctx context.Context, in *Region) (names []string, err error) {
	for _, a := range envelope.Algorithms {
		err := in.Token.Opens(ctx, a)
		if _, gap := errors.AsType[*token.EnvelopeGapError](err); err != nil && !gap {
			return nil, err
		}
		if err == nil {
			names = append(names, a.Name)
		}
	}
	return names, nil
}

// Imported is what came of an import.
type Imported struct {
	Software bool // the envelope was opened in the memory of this process
}

// Import imports key material for a key of origin EXTERNAL, as it was when its version was read. validTo is zero for material that does not
// expire. keystore.ErrConflict says that somebody else has changed the key, or works on it.
func (r *Ring) Import(ctx context.Context, k *Key, text, blob []byte, validTo time.Time, commit Commit) (done Imported, err error) {
	in := r.regions[k.Record.Region]
	if k.Record.Instance != "" {
		return done, r.awaitImport(ctx, k)
	}
	m, err := r.openMaterial(ctx, in, k, text, blob)
	if err != nil {
		return done, err
	}
	defer m.clear()
	done.Software = m.software
	print, err := r.fingerprint(ctx, in, k, m.tag)
	if err != nil {
		return done, err
	}
	before := k.Record.Import.Fingerprint
	if before != nil && subtle.ConstantTimeCompare(before, print) != 1 {
		return done, ErrOtherMaterial
	}
	record := k.Record
	record.Import = &keystore.Import{Held: true, Fingerprint: print, Removed: k.Record.Import.Removed}
	if !validTo.IsZero() {
		record.Import.ValidTo = records.Time(validTo)
	}
	if k.State() == keystore.PendingImport {
		record.State = keystore.Enabled
	}
	if k.Record.Import.Held {
		err = m.kept(ctx, record.CKAID)
		if err == nil {
			_, err = commit(ctx, record.Put(k.Version))
		}
		if !errors.Is(err, token.ErrKeyMissing) { // somebody has destroyed the object: it comes back
			return done, err
		}
	}
	return done, r.place(ctx, in, k, record, m, commit)
}

// place puts material into the token whose record, if all goes well, will be this.
func (r *Ring) place(ctx context.Context, in *Region, k *Key, whole keystore.Key, m *material, commit Commit) error {
	defer r.inProgress.add(whole.Ref())()
	begun, none := k.Record, *k.Record.Import
	none.Held, none.ValidTo = false, time.Time{}
	begun.Instance, begun.State, begun.Import = r.cfg.Store.Instance(), keystore.PendingImport, &none
	version, err := commit(ctx, begun.Put(k.Version))
	if err != nil {
		return err
	}
	crash.At("import-begun")
	// What a store that was restored from a backup does not know of would be a second object of the CKA_ID.
	if _, err = r.destroyObject(ctx, begun); err == nil {
		err = m.keep(ctx, whole.CKAID, whole.ID)
	}
	if err == nil {
		crash.At("import-object-made")
		err = m.kept(ctx, whole.CKAID)
	}
	if err == nil {
		_, err = commit(ctx, whole.Put(version))
	}
	if err != nil {
		r.undoImport(ctx, begun, err)
		return err
	}
	crash.At("import-flipped")
	return nil
}

// undoImport destroys what place has made. What cannot be destroyed now is left to the janitor, under the record.
func (r *Ring) undoImport(ctx context.Context, record keystore.Key, cause error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.CallTimeout)
	defer cancel()
	if hung, ok := errors.AsType[*token.HungError](cause); ok {
		r.inProgress.keep(record.Ref(), hung.Done())
		return
	}
	if err := r.endMaterial(ctx, record.Ref(), token.MayHaveMade(cause)); err != nil {
		r.cfg.Log.Warn("key material that could not be imported is left to the janitor", "key", record.ID, "error", err)
	}
}

// DeleteMaterial takes the material of a key away, which is in no use as soon as the record says so, and destroys it. It does nothing where
// there is none.
func (r *Ring) DeleteMaterial(ctx context.Context, k *Key, commit Commit) error {
	if k.Record.Instance != "" {
		return r.awaitImport(ctx, k)
	}
	if !k.Record.Import.Held {
		return nil
	}
	defer r.inProgress.add(k.Record.Ref())()
	if _, err := commit(ctx, r.withoutMaterial(k.Record).Put(k.Version)); err != nil {
		return err
	}
	crash.At("material-deleting")
	return r.endMaterial(ctx, k.Record.Ref(), false)
}

// withoutMaterial is the record of a key whose object is to be destroyed.
func (r *Ring) withoutMaterial(record keystore.Key) keystore.Key {
	record.Import = &keystore.Import{Fingerprint: record.Import.Fingerprint, Removed: record.Import.Removed + 1}
	record.Instance = r.cfg.Store.Instance()
	if record.State != keystore.PendingDeletion {
		record.State = keystore.PendingImport
	}
	return record
}

// endMaterial destroys the object of a key that holds no material and that this instance works on, and says so in its record. With mustFind
// the record stays as it is where no object was found. A key that another works on by now, or that is being deleted, is left alone.
func (r *Ring) endMaterial(ctx context.Context, ref keystore.Ref, mustFind bool) error {
	return records.RetryConflicts(ctx, func() error {
		rec, err := r.cfg.Store.Get(ctx, ref)
		if err != nil {
			return records.IgnoreNotFound(err)
		}
		record, err := keystore.DecodeKey(rec)
		if err != nil || record.Import == nil || record.Import.Held || record.State.Unfinished() || record.Instance != r.cfg.Store.Instance() {
			return err
		}
		if err := r.destroyMaterial(ctx, record, mustFind); err != nil {
			return err
		}
		crash.At("material-destroyed")
		record.Instance = ""
		_, err = r.cache.Commit(ctx, record.Put(rec.Version))
		return err
	})
}

// importPause is between two looks at a key that somebody else works on.
const importPause = 20 * time.Millisecond

// awaitImport waits until nobody works on the material of a key any more: then keystore.ErrConflict says that it is to be looked at anew.
func (r *Ring) awaitImport(ctx context.Context, k *Key) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.CallTimeout)
	defer cancel()
	tick := time.NewTicker(importPause)
	defer tick.Stop()
	for {
		_, _ = r.Tidy(ctx) // logs what fails
		rec, err := r.cfg.Store.Get(ctx, k.Record.Ref())
		if err != nil || rec.Version != k.Version {
			return errors.Join(keystore.ErrConflict, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("somebody else works on the material of key %s: %w", k.Record.ID, ctx.Err())
		}
	}
}

// importSpec is the spec of a key that material is imported for.
func importSpec(record keystore.Key) (*Spec, error) {
	spec := MACSpecOf(types.KeySpec(record.Spec))
	if spec == nil {
		return nil, fmt.Errorf("material of key spec %s is not imported", record.Spec)
	}
	return spec, nil
}
