package pkcs11kms

import (
	"context"
	"errors"
	"time"

	"github.com/aws/smithy-go"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/lastuse"
)

// AccessKeyLastUsed is when and where an access key was last used, as AWS IAM has it. A use is a request with a right
// signature, whatever became of it. It is known up to six minutes late, and at once when the server that saw it has ended.
type AccessKeyLastUsed struct {
	LastUsedDate time.Time // UTC, whole seconds; the zero Time: never
	ServiceName  string    // kms, or N/A
	Region       string    // or N/A
}

// noneUsed is what AWS IAM has in place of a service and a region.
const noneUsed = "N/A"

// GetAccessKeyLastUsed tells when an access key was last used, and whose it is. As in AWS IAM an access key that there is not
// (any more) is AccessDenied.
func (b *Bridge) GetAccessKeyLastUsed(ctx context.Context, id string) (PrincipalName, AccessKeyLastUsed, error) {
	record, _, err := b.readAccessKey(ctx, PrincipalName{}, id)
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() == noSuchEntity {
		err = iamError("AccessDenied", "User: %s is not authorized to perform: iam:GetAccessKeyLastUsed on resource: access key %s",
			b.Root().ARN(), id)
	}
	if err != nil {
		return PrincipalName{}, AccessKeyLastUsed{}, err
	}
	owner, err := b.keyOwnerByID(ctx, record.Owner)
	if err != nil {
		return PrincipalName{}, AccessKeyLastUsed{}, err
	}
	used, err := b.lastUse(ctx, id)
	return PrincipalName{owner.record.Type, owner.record.Name}, used, err
}

func (b *Bridge) lastUse(ctx context.Context, id string) (AccessKeyLastUsed, error) {
	use, err := lastuse.Read(ctx, b.store, b.cfg.AccountID, id, b.Regions())
	if err != nil || use == (lastuse.Use{}) {
		return AccessKeyLastUsed{ServiceName: noneUsed, Region: noneUsed}, err
	}
	return AccessKeyLastUsed{use.At, "kms", use.Region}, nil
}

// AccessKeyUsed notes that somebody has proved to hold an access key, by a request to a region. It costs no more than a look at
// the clock.
func (b *Bridge) AccessKeyUsed(id, region string) { b.uses.Note(id, region) }

// newUses makes what notes the uses of access keys. Its commits go through the cache, as all do.
func (b *Bridge) newUses() *lastuse.Recorder {
	return &lastuse.Recorder{Store: useStore{b}, Account: b.cfg.AccountID, Now: b.cfg.Now, Log: b.log}
}

// useStore is the store with the commits of the cache.
type useStore struct{ b *Bridge }

func (s useStore) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	return s.b.store.Get(ctx, ref)
}

func (s useStore) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	return s.b.cache.Commit(ctx, changes...)
}

// keepUses writes the noted uses until ctx ends.
func (b *Bridge) keepUses(ctx context.Context) {
	tick := time.NewTicker(lastuse.Interval)
	defer tick.Stop()
	b.uses.Run(ctx, tick.C)
}
