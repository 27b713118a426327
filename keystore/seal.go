package keystore

import "fmt"

// Seals says that the records of a store are sealed: each carries in Record.Seal what only the service key that is named here makes of its
// place and value. A store without this record has no seals.
type Seals struct {
	Store HexBytes `json:"store"` // the store's id: random, part of every seal
	Epoch uint32   `json:"epoch"` // that of the seals that count; one more each time that all records are sealed anew

	// Where the service key is that the seal key is derived by.
	Region string   `json:"region"`
	CKAID  HexBytes `json:"cka_id"`
	Spec   string   `json:"spec"` // types.KeySpec

	// Unfinished: whoever was sealing all records has not come to the end. Nobody uses the store until somebody has.
	Unfinished bool `json:"unfinished,omitempty"`

	// Previous: all records are being sealed anew while others use the store, and seals of this epoch still count. Nil: no others do.
	Previous *SealKeyRef `json:"previous,omitempty"`
}

// SealKeyRef names the key of an epoch's seals.
type SealKeyRef struct {
	Epoch  uint32   `json:"epoch"`
	Region string   `json:"region"`
	CKAID  HexBytes `json:"cka_id"`
	Spec   string   `json:"spec"` // types.KeySpec
}

// SealsRef names the one record of its kind.
func SealsRef() Ref { return Ref{Kind: KindSeals, ID: "records"} }

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (s Seals) Put(expect uint64) Change {
	return Change{Op: Put, Ref: SealsRef(), Expect: expect, Value: encode(s)}
}

// DecodeSeals reads the record.
func DecodeSeals(r Record) (Seals, error) {
	if r.Ref != SealsRef() {
		return Seals{}, fmt.Errorf("record %s/%s does not tell of seals", r.Ref.Kind, r.Ref.ID)
	}
	var s Seals
	if err := decode(r, &s); err != nil {
		return Seals{}, fmt.Errorf("record of seals: %w", err)
	}
	return s, nil
}
