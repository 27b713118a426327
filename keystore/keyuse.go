package keystore

import (
	"errors"
	"fmt"
	"time"
)

// KeyUse is the last use of a key's material that was noted. A key without this record was not used since uses are noted.
type KeyUse struct {
	Region  string `json:"-"` // of the key, as Account and KeyID
	Account string `json:"-"`
	KeyID   string `json:"-"`

	Operation string    `json:"operation"`         // of the API that used it
	At        time.Time `json:"at"`                // UTC, whole seconds
	Event     string    `json:"event"`             // eventID of the record of the audit log that tells of the use; empty where there is no log
	Request   string    `json:"request,omitempty"` // requestID of the call
}

// KeyUseRef names the record of a key's last use.
func KeyUseRef(region, account, keyID string) Ref {
	return Ref{Kind: KindKeyUse, Region: region, Account: account, ID: keyID}
}

// Ref names the record.
func (u KeyUse) Ref() Ref { return KeyUseRef(u.Region, u.Account, u.KeyID) }

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (u KeyUse) Put(expect uint64) Change {
	return Change{Op: Put, Ref: u.Ref(), Expect: expect, Value: encode(u)}
}

// DecodeKeyUse reads the last use of a record.
func DecodeKeyUse(r Record) (KeyUse, error) {
	u := KeyUse{Region: r.Ref.Region, Account: r.Ref.Account, KeyID: r.Ref.ID}
	if r.Ref.Kind != KindKeyUse {
		return KeyUse{}, fmt.Errorf("record %s/%s is not of the use of a key", r.Ref.Kind, r.Ref.ID)
	}
	err := decode(r, &u)
	if err == nil && (u.Operation == "" || u.At.IsZero() || u.At.Location() != time.UTC || u.At.Nanosecond() != 0) {
		err = errors.New("unreadable value: no operation, or no time in whole seconds of UTC")
	}
	if err != nil {
		return KeyUse{}, fmt.Errorf("record of the use of key %s: %w", r.Ref.ID, err)
	}
	return u, nil
}
