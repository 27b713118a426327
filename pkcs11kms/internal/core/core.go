// Package core is the inside of a Bridge: what packages of this module that administrate it work on beside its Clients. Whoever
// has it is past every policy.
package core

import (
	"context"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Core is the inside of one open Bridge. It is good for as long as that, and safe for concurrent use; nothing of it is changed.
type Core struct {
	Account     string
	Regions     []string // as configured
	CallTimeout time.Duration
	Log         *slog.Logger
	Now         func() time.Time // UTC, in the store's precision

	Store  keystore.Store
	Cache  *records.Cache          // of Store; Commits go through it
	Tokens map[string]*token.Token // by region

	// Tidy finishes what dead processes have left half made or half deleted, and returns the ids of those keys.
	Tidy func(context.Context) (finished []string, err error)
	// InProgress keeps the janitor of this instance away from a key that is half made or half deleted, until done is called.
	InProgress func(keystore.Ref) (done func())
	// CommitKey commits a change that makes (n is 1) or removes (-1) a key's record together with the counter of the account's
	// keys, within their quota. The batch is bound to others.
	CommitKey func(ctx context.Context, record keystore.Key, n int, change keystore.Change, others ...keystore.Change) (
		version uint64, err error)
	// Metadata is what the API tells of the key of a record.
	Metadata func(keystore.Record) (*types.KeyMetadata, error)
}
