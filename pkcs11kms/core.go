package pkcs11kms

import (
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Core returns the inside of the Bridge, for this module's other packages: the type is internal.
func (b *Bridge) Core() *core.Core {
	tokens := map[string]*token.Token{}
	for name, r := range b.regions {
		tokens[name] = r.token
	}
	return &core.Core{
		Account: b.cfg.AccountID, Regions: slices.Sorted(maps.Keys(b.cfg.Regions)),
		CallTimeout: b.cfg.CallTimeout, Log: b.log, Now: b.wallClock,
		Store: b.store, Cache: b.cache, Tokens: tokens,
		Tidy: b.tidyOnce, InProgress: b.inProgress.add, CommitKey: b.commitCounted,
		Metadata: func(rec keystore.Record) (*types.KeyMetadata, error) {
			k, err := b.decodeKey(rec)
			if err != nil {
				return nil, err
			}
			return k.metadata(), nil
		},
	}
}
