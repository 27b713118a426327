package keystore

import (
	"fmt"
	"time"
)

// AccessKeyStatus is the status of an access key. Active and Inactive are AWS IAM's; Deleted is the tombstone that keeps
// an id from being used again.
type AccessKeyStatus string

const (
	AccessKeyActive   AccessKeyStatus = "Active"
	AccessKeyInactive AccessKeyStatus = "Inactive"
	AccessKeyDeleted  AccessKeyStatus = "Deleted"
)

// AccessKey is what is known of one access key. Its secret is stored nowhere: a service key in the home token makes it
// from these fields.
type AccessKey struct {
	ID      string          `json:"-"`       // AKIA and 16 characters of base32
	Account string          `json:"account"` // 12 digits
	Owner   string          `json:"owner"`   // unique id of the principal; for the account's root the account
	Status  AccessKeyStatus `json:"status"`
	Created time.Time       `json:"created"`         // UTC, whole seconds
	Epoch   uint32          `json:"epoch,omitempty"` // of the service key that makes its secret; 0: the first one
}

// AccessKeyRef names the record of an access key.
func AccessKeyRef(id string) Ref { return Ref{Kind: KindAccessKey, ID: id} }

// OwnerValue is the value of IndexAccessKeyOwner for the keys of one principal.
func OwnerValue(account, owner string) string { return account + "/" + owner }

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (k AccessKey) Put(expect uint64) Change {
	var index []Entry
	if k.Status != AccessKeyDeleted {
		index = []Entry{{IndexAccessKeyOwner, OwnerValue(k.Account, k.Owner)}}
	}
	return Change{Op: Put, Ref: AccessKeyRef(k.ID), Expect: expect, Value: encode(k), Index: index}
}

// DecodeAccessKey reads the access key of a record.
func DecodeAccessKey(r Record) (AccessKey, error) {
	k := AccessKey{ID: r.Ref.ID}
	if r.Ref.Kind != KindAccessKey {
		return AccessKey{}, fmt.Errorf("record %s/%s is not an access key", r.Ref.Kind, r.Ref.ID)
	}
	if err := decode(r, &k); err != nil {
		return AccessKey{}, fmt.Errorf("access key record %s: %w", r.Ref.ID, err)
	}
	return k, nil
}
