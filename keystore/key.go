package keystore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// KeyState is the state of a key record. Enabled, Disabled, PendingDeletion and PendingImport are AWS KMS's KeyState values;
// Creating and Deleting are the bridge's own and never visible through the API.
type KeyState string

const (
	Creating KeyState = "Creating" // the record stands, the token object may or may not exist yet
	Enabled  KeyState = "Enabled"
	Disabled KeyState = "Disabled"
	Deleting KeyState = "Deleting" // the token object is being destroyed, then the record goes

	PendingDeletion KeyState = "PendingDeletion" // AWS KMS's: to be destroyed at DeletionDate
	PendingImport   KeyState = "PendingImport"   // AWS KMS's: its material is not here yet, or not any more
)

// Unfinished tells whether the record is between two of its own steps: an instance works on it, or died over it.
func (s KeyState) Unfinished() bool { return s == Creating || s == Deleting }

// importing tells whether the material of the key is being imported or deleted.
func (k Key) importing() bool { return k.Import != nil && k.Instance != "" }

// known tells whether this version of the program has the state. Another may mean that the key must not be used.
func (s KeyState) known() bool {
	return s.Unfinished() || s == Enabled || s == Disabled || s == PendingDeletion || s == PendingImport
}

// Key is the metadata of one KMS key. Its token object is the one with CKA_ID CKAID.
type Key struct {
	Region      string    `json:"-"`
	Account     string    `json:"-"`
	ID          string    `json:"-"` // bare key id: a lower-case UUID
	State       KeyState  `json:"state"`
	Spec        string    `json:"spec"`   // types.KeySpec, such as HMAC_256
	Usage       string    `json:"usage"`  // types.KeyUsageType
	Origin      string    `json:"origin"` // types.OriginType
	Description string    `json:"description,omitempty"`
	Created     time.Time `json:"created"`            // UTC, whole milliseconds
	CKAID       HexBytes  `json:"cka_id"`             // 16 random bytes, unique in the store
	Instance    string    `json:"instance,omitempty"` // who creates or deletes the key, or imports or deletes its material

	DeletionDate time.Time `json:"deletion_date,omitzero"` // UTC, whole milliseconds; in the state PendingDeletion only
	Aliases      int       `json:"aliases,omitempty"`      // how many alias records name the key
	Tags         []Tag     `json:"tags,omitempty"`         // ordered by key
	Policy       string    `json:"policy,omitempty"`       // the key policy, users and roles by their unique ids; empty: the default one
	Adopted      Adoption  `json:"adopted,omitempty"`      // how the object came under management; empty: made by us
	PublicKey    HexBytes  `json:"public_key,omitempty"`   // of a finished key of usage SIGN_VERIFY: DER SubjectPublicKeyInfo
	Label        string    `json:"label,omitempty"`        // that an adopted object had when it was adopted; empty: none, or not on record
	Proof        HexBytes  `json:"proof,omitempty"`        // of a service key: its MAC of a text that is always the same; empty: not on record
	Import       *Import   `json:"import,omitempty"`       // of a key whose material is imported: origin EXTERNAL
}

// Import is what is on record of imported key material.
type Import struct {
	Held        bool      `json:"held,omitempty"`        // the object is the material, whole; else there is none, or a useless one
	ValidTo     time.Time `json:"valid_to,omitzero"`     // from when on it must not be used; zero: it does not expire. UTC, whole milliseconds
	Fingerprint HexBytes  `json:"fingerprint,omitempty"` // of the first material that was imported: no other may be
	Removed     int       `json:"removed,omitempty"`     // how often material was taken away: envelopes of before do not count any more
}

// Tag is a tag of a key.
type Tag struct {
	Key   string `json:"k"`
	Value string `json:"v"`
}

// Adoption says of a key whose object was there before what becomes of the object when the key is deleted.
type Adoption string

const (
	AdoptedKeep    Adoption = "keep"    // only the record goes
	AdoptedDestroy Adoption = "destroy" // the object is destroyed, as with our own keys
)

// Ref names the key's record.
func (k Key) Ref() Ref { return KeyRef(k.Region, k.Account, k.ID) }

// KeyRef names the record of a key by its bare id.
func KeyRef(region, account, id string) Ref {
	return Ref{Kind: KindKey, Region: region, Account: account, ID: id}
}

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (k Key) Put(expect uint64) Change {
	for _, text := range []*string{&k.Description, &k.Label} {
		*text = strings.ToValidUTF8(*text, "\uFFFD")
	}
	index := []Entry{{IndexCKAID, hex.EncodeToString(k.CKAID)}}
	if k.State.Unfinished() || k.importing() {
		index = append(index, Entry{IndexUnfinished, k.Instance})
	}
	if k.Import != nil && k.Import.Held && !k.Import.ValidTo.IsZero() {
		index = append(index, Entry{IndexValidTo, k.Import.ValidTo.UTC().Format(time.RFC3339)})
	}
	if k.State == PendingDeletion {
		index = append(index, Entry{IndexPendingDeletion, k.DeletionDate.UTC().Format(time.RFC3339)})
	}
	return Change{Op: Put, Ref: k.Ref(), Expect: expect, Value: encode(k), Index: index}
}

// DecodeKey reads the key of a record. A value that this version of the program would not have written is an error:
// a field nobody here knows may be one that protects the key.
func DecodeKey(r Record) (Key, error) {
	k := Key{Region: r.Ref.Region, Account: r.Ref.Account, ID: r.Ref.ID}
	if r.Ref.Kind != KindKey {
		return Key{}, fmt.Errorf("record %s/%s is not a key", r.Ref.Kind, r.Ref.ID)
	}
	if err := decode(r, &k); err != nil {
		return Key{}, fmt.Errorf("key record %s: %w", r.Ref.ID, err)
	}
	if !k.State.known() {
		return Key{}, fmt.Errorf("key record %s: unknown state %q", r.Ref.ID, k.State)
	}
	return k, nil
}

// Region is the token that a region's keys live in, written when the region is first used. The token found later must answer as
// Binding says or, where there is none, have the same serial.
type Region struct {
	Name         string `json:"-"`
	Serial       string `json:"serial"` // the names are those of the last time that it was used
	Label        string `json:"label"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`

	Retired *time.Time `json:"retired,omitempty"` // when its keys were set aside because the token is gone for good; UTC

	Binding *Binding `json:"binding,omitempty"` // nil: not made yet, or see Unable
	Unable  string   `json:"unable,omitempty"`  // the firmware version of a token that can make no key for a Binding

	// Learnt is JSON of what was found out about the token, by whoever opened it; nil when there is nothing to know. It is advice: what
	// a program cannot read of it, it passes over.
	Learnt json.RawMessage `json:"learnt,omitempty"`
}

// Binding is what a token is known again by, whatever it calls itself: a key of the region's own.
type Binding struct {
	CKAID HexBytes `json:"cka_id"` // of its object
	Spec  string   `json:"spec"`   // types.KeySpec
	Proof HexBytes `json:"proof"`  // its MAC or signature of a text that is always the same
}

// RegionRef names the record of a region.
func RegionRef(name string) Ref { return Ref{Kind: KindRegion, Region: name, ID: name} }

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (g Region) Put(expect uint64) Change {
	for _, text := range []*string{&g.Serial, &g.Label, &g.Manufacturer, &g.Model} {
		*text = strings.ToValidUTF8(*text, "\uFFFD") // tokens answer any bytes
	}
	return Change{Op: Put, Ref: RegionRef(g.Name), Expect: expect, Value: encode(g)}
}

// DecodeRegion reads the region of a record.
func DecodeRegion(r Record) (Region, error) {
	g := Region{Name: r.Ref.Region}
	if r.Ref.Kind != KindRegion {
		return Region{}, fmt.Errorf("record %s/%s is not a region", r.Ref.Kind, r.Ref.ID)
	}
	if err := decode(r, &g); err != nil {
		return Region{}, fmt.Errorf("region record %s: %w", r.Ref.ID, err)
	}
	return g, nil
}

// HexBytes is a byte string that is written as lower-case hexadecimal text.
type HexBytes []byte

// MarshalText implements encoding.TextMarshaler.
func (b HexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(b)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *HexBytes) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(text))
	*b = raw
	return err
}

// String returns the hexadecimal text.
func (b HexBytes) String() string { return hex.EncodeToString(b) }

// encode makes the canonical value: JSON with the fields in the order of the struct, no HTML escapes, no line end.
func encode(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // the record types hold nothing that JSON cannot
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// decode reads a value that encode made, and nothing else. Comparing with what encode makes of the result covers what
// encoding/json would let pass: names in another case or given twice, blanks, junk behind the value.
func decode(r Record, v any) error {
	if len(r.Seal) != 0 {
		return errors.New("carries a seal that nobody has checked")
	}
	dec := json.NewDecoder(bytes.NewReader(r.Value))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("unreadable value: %w", err)
	}
	if !bytes.Equal(encode(v), r.Value) {
		return errors.New("unreadable value: not in the canonical form")
	}
	return nil
}

// decodeChecked decodes a value, given what its Ref says of it, and refuses what check refuses. what begins its errors.
func decodeChecked[T interface{ check() error }](r Record, into T, what string) (T, error) {
	err := decode(r, &into)
	if err == nil {
		err = into.check()
	}
	if err != nil {
		var none T
		return none, fmt.Errorf("%s %s: %w", what, r.Ref.ID, err)
	}
	return into, nil
}
