package keyring

import (
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
)

//lint:file-ignore SA1019 deprecated members are part of the API

// Key is a key's record with its material. It is never changed: a change of the record makes a new one.
type Key struct {
	Record   keystore.Key
	Version  uint64 // of the record
	ARN      string
	Material Material // nil for a key of a spec that is not known
	ring     *Ring    // whose clock says whether imported material has expired
}

// Dropped implements records.Dropped: the record has changed, or others are used more.
func (k *Key) Dropped() {
	if k.Material != nil {
		k.Material.dropped()
	}
}

// Decode reads a key record. One that is between two of its steps is answered with keystore.ErrNotFound.
func (r *Ring) Decode(rec keystore.Record) (*Key, error) {
	record, err := keystore.DecodeKey(rec)
	if err != nil {
		return nil, err
	}
	if record.State.Unfinished() {
		return nil, keystore.ErrNotFound
	}
	region, ok := r.regions[record.Region]
	if !ok {
		return nil, fmt.Errorf("key %s is of region %q, which is not configured", record.ID, record.Region)
	}
	material, err := region.material(record)
	if err != nil {
		return nil, fmt.Errorf("key record %s: %w", record.ID, err)
	}
	return &Key{
		Record:   record,
		Version:  rec.Version,
		ARN:      "arn:" + r.cfg.Partition + ":kms:" + record.Region + ":" + record.Account + ":key/" + record.ID,
		Material: material,
		ring:     r,
	}, nil
}

// Metadata is the KeyMetadata of CreateKey and DescribeKey, with the members that the real service sends for this
// kind of key and no others.
func (k *Key) Metadata() *types.KeyMetadata {
	state := k.State()
	m := &types.KeyMetadata{
		AWSAccountId:          aws.String(k.Record.Account),
		KeyId:                 aws.String(k.Record.ID),
		Arn:                   aws.String(k.ARN),
		CreationDate:          aws.Time(k.Record.Created),
		Enabled:               state == keystore.Enabled,
		Description:           aws.String(k.Record.Description),
		KeyUsage:              types.KeyUsageType(k.Record.Usage),
		KeyState:              types.KeyState(state),
		Origin:                types.OriginType(k.Record.Origin),
		KeyManager:            types.KeyManagerTypeCustomer,
		CustomerMasterKeySpec: types.CustomerMasterKeySpec(k.Record.Spec),
		KeySpec:               types.KeySpec(k.Record.Spec),
		MultiRegion:           aws.Bool(false),
	}
	if k.Material != nil {
		k.Material.describe(m)
	}
	if held := k.Record.Import; held != nil && held.Held && state != keystore.PendingImport {
		m.ExpirationModel = types.ExpirationModelTypeKeyMaterialDoesNotExpire
		if !held.ValidTo.IsZero() {
			m.ExpirationModel, m.ValidTo = types.ExpirationModelTypeKeyMaterialExpires, aws.Time(held.ValidTo)
		}
	}
	if state == keystore.PendingDeletion {
		m.DeletionDate = aws.Time(k.Record.DeletionDate)
	}
	return m
}
