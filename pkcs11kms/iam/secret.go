package iam

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"

	"github.com/pkcs11kms/bridge/keystore"
)

// The secret of an access key is stored nowhere: it is made anew, whenever it is needed, by Config.MAC from the account, the
// owner and the id. So whoever may use that key and this store can make every secret; showing one once is a convention, not a
// protection.

// ErrUnknownAccessKey says that no active access key has the id.
var ErrUnknownAccessKey = errors.New("no active access key has this id")

// keyCaller returns the Caller that an access key stands for, or keystore.ErrNotFound when it was removed.
func (d *Directory) keyCaller(ctx context.Context, key keystore.AccessKey) (Caller, error) {
	there, err := d.answersFor(ctx, key.Account)
	if err == nil && !there {
		err = keystore.ErrNotFound
	}
	if err != nil {
		return Caller{}, err
	}
	if key.Owner == key.Account {
		return d.Root(key.Account), nil
	}
	p, err := d.principal(ctx, key.Account, key.Owner)
	if err != nil {
		return Caller{}, err
	}
	if !p.record.Type.IsCaller() || p.record.Type == keystore.PrincipalRole && d.cfg.NoRoleAccessKeys {
		return Caller{}, keystore.ErrNotFound
	}
	return p.caller, nil
}

// secretOf makes the secret of an access key: the first 30 bytes of the MAC, in base64.
func (d *Directory) secretOf(ctx context.Context, k keystore.AccessKey) (string, error) {
	mac, err := d.cfg.MAC(ctx, k.Epoch, lengthPrefixed("pkcs11kms secret v1", k.Account, k.Owner, k.ID))
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(mac[:30]), nil
}

// lengthPrefixed joins texts so that no two lists of them give the same bytes.
func lengthPrefixed(parts ...string) []byte {
	var b []byte
	for _, part := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return b
}
