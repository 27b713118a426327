// Package doctor examines the store, the tokens and the keys of a Bridge, and mends what can be mended: it corrects what records
// say twice, adopts or destroys objects of a token that no record names, and retires regions whose token is gone.
package doctor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// The values of Check.Status.
const (
	StatusOK      = "ok"
	StatusWarning = "warning" // works, but somebody should know
	StatusError   = "error"   // does not work, or not as promised
)

// Report is what Examine found.
type Report struct {
	Checks  []Check        `json:"checks"`
	Regions []RegionReport `json:"regions"`
	FIPS140 FIPS140        `json:"fips140"`
}

// Check is the outcome of one examination.
type Check struct {
	Area    string `json:"area"`    // config, store, token, key, object or audit
	Subject string `json:"subject"` // a path, region, key id or CKA_ID
	Status  string `json:"status"`  // StatusOK, StatusWarning or StatusError
	Text    string `json:"text"`
	Hint    string `json:"hint,omitempty"` // what to do about it
}

// RegionReport is what is known of one region.
type RegionReport struct {
	Name    string         `json:"name"`
	Token   *TokenReport   `json:"token,omitempty"` // nil when it could not be opened
	Keys    []KeyReport    `json:"keys"`
	Unknown []ObjectReport `json:"unknown_objects"` // objects of the token that no record names

	// HalfMade are objects without a CKA_ID, a label and a key that a process has left which was killed while it made a key.
	HalfMade []ObjectReport `json:"half_made_objects,omitempty"`
}

// TokenReport describes a token and what the capability probe found.
type TokenReport struct {
	Label           string   `json:"label"`
	Serial          string   `json:"serial"`
	Manufacturer    string   `json:"manufacturer"`
	Model           string   `json:"model"`
	Module          string   `json:"module"`
	Binding         string   `json:"binding,omitempty"` // how it is known to hold the region's keys: BindingProved and so on
	KeySpecs        []string `json:"key_specs"`         // that the token can make and use; RSA_3072 and RSA_4096 are not tried
	MissingKeySpecs []string `json:"missing_key_specs"` // that it cannot make or use, or that are not approved in FIPS 140-3 mode
	UntriedKeySpecs []string `json:"untried_key_specs"` // of which nothing is known until a key of the spec is made
	// MissingAlgorithms are those that its keys of one of KeySpecs do not sign by; no entry for a spec that lacks none.
	MissingAlgorithms map[string][]types.SigningAlgorithmSpec `json:"missing_signing_algorithms"`
}

// KeyReport is a key record and what its object in the token is like.
type KeyReport struct {
	KeyID   string        `json:"key_id"`
	State   string        `json:"state"`
	KeySpec string        `json:"key_spec"`
	CKAID   string        `json:"cka_id"`            // hexadecimal
	Adopted string        `json:"adopted,omitempty"` // keep or destroy: what a deletion does with an adopted object
	Service bool          `json:"service,omitempty"` // a key of this program's own, which no caller can name
	Object  *ObjectReport `json:"object,omitempty"`  // nil when it is missing
}

// ObjectReport is an object of the token.
type ObjectReport struct {
	Class  string `json:"class"`
	CKAID  string `json:"cka_id"` // hexadecimal
	Label  string `json:"label"`
	Length int    `json:"length,omitempty"` // of a secret key, in bytes
}

// OK tells whether nothing is in the state error.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Status == StatusError })
}

// examination collects a Report. Without a store, since it could not be opened, the tokens are still looked at.
type examination struct {
	cfg    pkcs11kms.Config
	store  *sealed.Store
	ready  *openedToken // of the region that was opened before its turn, since its token unlocks the store
	report Report

	accounts []string // the configured one first
}

func (d *examination) add(area, subject, status, text string) {
	d.report.Checks = append(d.report.Checks, Check{Area: area, Subject: subject, Status: status, Text: text})
}

func (d *examination) advise(area, subject, status, text, hint string) {
	d.report.Checks = append(d.report.Checks, Check{area, subject, status, text, hint})
}

// fail reports an error with its hint.
func (d *examination) fail(area, subject string, err error) {
	var hinted interface{ Hint() string }
	hint := ""
	if errors.As(err, &hinted) {
		hint = hinted.Hint()
	}
	d.advise(area, subject, StatusError, err.Error(), hint)
}

// OpenStore opens the store for an examination, which closes it afterwards. statedir.Config has one.
type OpenStore func(context.Context) (keystore.Store, error)

// Examine examines store, tokens and keys. It changes nothing but what a log-in leaves in a token, and a record of the store
// that is there to be written. It never fails: what is wrong stands in the report. It reads the whole store, asks the token
// for every object, and makes a MAC or a signature with every key. The store is the one that open opens, not cfg.Store; the
// report calls it by its name, such as the path of its file.
func Examine(ctx context.Context, cfg pkcs11kms.Config, name string, open OpenStore) *Report {
	d := &examination{}
	d.report.Regions = []RegionReport{}
	d.examineMode()
	var err error
	if d.cfg, err = cfg.WithDefaults(); err != nil {
		d.fail("config", "configuration", err)
		return &d.report
	}
	store, err := open(ctx)
	if err != nil {
		d.fail("store", name, err)
	} else {
		defer func() { _ = store.Close() }() // what was written is durable already
		if d.store, err = sealed.New(ctx, store, sealed.Options{}); err != nil {
			d.fail("store", name, err)
			d.store = sealed.Trusting(store)
		}
		d.unlock(ctx, name)
		d.readAccounts(ctx)
		d.examineStore(ctx, name)
	}
	for _, name := range d.regions() {
		d.examineRegion(ctx, name)
	}
	return &d.report
}

// examineStore reads all of the store.
func (d *examination) examineStore(ctx context.Context, name string) {
	if err := d.store.Verify(ctx); err != nil {
		d.fail("store", name, err)
		d.examineSeals(ctx, name) // of what can be read
		return
	}
	d.add("store", name, StatusOK, "every record and index entry is sound")
	switch err := d.tryWrite(ctx); {
	case errors.Is(err, sealed.ErrLocked): // which was told
	case err != nil:
		d.fail("store", name, fmt.Errorf("nothing can be changed: %w", err))
	default:
		d.add("store", name, StatusOK, "takes changes")
	}
	d.examineSeals(ctx, name)
	d.examineLeftovers(name)
	d.examineHoldings(ctx)
	d.examineConsistency(ctx)
	d.examineIdentities(ctx)
	d.examineSecrets(ctx)
	d.examineRoleKeys(ctx)
}

func (d *examination) examineRegion(ctx context.Context, name string) {
	region := RegionReport{Name: name, Keys: []KeyReport{}, Unknown: []ObjectReport{}}
	defer func() { d.report.Regions = append(d.report.Regions, region) }()
	t, bound, verdict := d.tokenOf(ctx, name)
	if t == nil {
		return
	}
	defer func() { _ = t.Close() }() // only read from
	region.Token = d.examineToken(ctx, name, t)
	if d.store == nil {
		return
	}
	defer d.examineBinding(&region, bound, verdict)
	objects, err := t.Objects(ctx)
	if err != nil {
		d.fail("token", name, err)
		return
	}
	d.examineKeys(ctx, &region, inventory{objects: objects, token: t})
	d.examineHalfMade(ctx, &region, t)
}

func (d *examination) examineToken(ctx context.Context, name string, t *token.Token) *TokenReport {
	info, able := t.Info(), t.Capabilities()
	r := &TokenReport{Label: info.Label, Serial: info.Serial, Manufacturer: info.Manufacturer, Model: info.Model,
		Module: info.ModulePath, KeySpecs: []string{}, MissingKeySpecs: []string{},
		UntriedKeySpecs: []string{}, MissingAlgorithms: map[string][]types.SigningAlgorithmSpec{}}
	d.add("token", name, StatusOK, fmt.Sprintf("logged in to %q, serial %s (%s %s)", info.Label, info.Serial, info.Manufacturer, info.Model))
	tried := func(spec keyring.Spec, gap error) {
		if made, learnt := spec.Learnt(t); errors.Is(gap, token.ErrUntried) && (made || learnt != nil) {
			gap = learnt
		}
		if gap == nil {
			r.KeySpecs = append(r.KeySpecs, string(spec.Name))
			return
		}
		if errors.Is(gap, token.ErrUntried) {
			r.UntriedKeySpecs = append(r.UntriedKeySpecs, string(spec.Name))
			d.advise("token", name, StatusWarning, fmt.Sprintf("nobody knows whether it makes and uses %s keys: %v", spec.Name, gap),
				"try it by a key that is made and destroyed: pkcs11kms doctor --probe-token-objects --region "+name)
			return
		}
		r.MissingKeySpecs = append(r.MissingKeySpecs, string(spec.Name))
		d.advise("token", name, StatusWarning, fmt.Sprintf("cannot make or use %s keys: %v", spec.Name, gap),
			"CreateKey refuses this spec; use another one")
	}
	for _, spec := range keyring.MACSpecs {
		tried(spec, able.For(spec.Hash).Err())
	}
	if len(r.KeySpecs) == 0 && len(r.UntriedKeySpecs) == 0 {
		d.advise("token", name, StatusError, "cannot make or use any HMAC key", "use a token that supports CKM_SHA256_HMAC")
	}
	for _, spec := range keyring.SignSpecs {
		switch {
		case spec.NotApproved() != nil:
			r.MissingKeySpecs = append(r.MissingKeySpecs, string(spec.Name))
		case spec.Pair.RSABits() <= shortRSA:
			tried(spec, t.ProbeKeyPair(ctx, spec.Pair))
		}
	}
	d.examineAlgorithms(name, t, r)
	if len(r.KeySpecs) > 0 {
		d.add("token", name, StatusOK, "makes and uses "+strings.Join(r.KeySpecs, ", ")+d.inMemory(name, t))
	}
	d.examinePromises(ctx, name, t)
	return r
}

// keyID is what the labels of this program's objects look like.
var keyID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// listUnknown names the objects of the token that no record of the whole store names; the halves of a key pair as one.
func (d *examination) listUnknown(ctx context.Context, region *RegionReport, objects []token.Object) {
	sharing := byCKAID(objects)
	for _, o := range objects {
		others := sharing[string(o.ID)]
		if slices.ContainsFunc(others, o.PublicHalfOf) {
			continue // stands beside the private one
		}
		recs, err := d.store.Lookup(ctx, keystore.IndexCKAID, hex.EncodeToString(o.ID), keystore.Ref{}, 1)
		if err != nil {
			d.fail("store", region.Name, err)
			return
		}
		if len(o.ID) > 0 && len(recs) > 0 {
			continue
		}
		r := objectReport(o)
		if slices.ContainsFunc(others, func(other token.Object) bool { return other.PublicHalfOf(o) }) {
			r.Class += " and CKO_PUBLIC_KEY"
		}
		region.Unknown = append(region.Unknown, r)
		whose, subject := "not ours, left alone", r.CKAID
		if o.NoID {
			whose, subject = "it has no CKA_ID, so that no record can want it; not ours, left alone", region.Name
		}
		if keyID.MatchString(r.Label) || strings.HasPrefix(r.Label, keyring.ServicePrefix) {
			whose = "its label is a key id, so a program like this one has made it: for another state directory, for a key that is newer " +
				"than a restored backup, or for one whose making or deletion was cut off. Left alone"
		}
		d.add("object", subject, StatusOK, fmt.Sprintf("unknown %s %q: %s", r.Class, r.Label, whose))
	}
}

// byCKAID sorts the objects that have a CKA_ID by it.
func byCKAID(objects []token.Object) map[string][]token.Object {
	sharing := map[string][]token.Object{}
	for _, o := range objects {
		if len(o.ID) > 0 {
			sharing[string(o.ID)] = append(sharing[string(o.ID)], o)
		}
	}
	return sharing
}

func objectReport(o token.Object) ObjectReport {
	return ObjectReport{Class: o.ClassName(), CKAID: hex.EncodeToString(o.ID), Label: o.Label, Length: o.ValueLen}
}
