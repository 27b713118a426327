package iam

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

const (
	testAccount  = "111122223333"
	otherAccount = "444455556666"
	testRegion   = "us-west-2"
)

var (
	alice    = PrincipalName{keystore.PrincipalUser, "Alice"}
	producer = PrincipalName{keystore.PrincipalRole, "JwtProducer"}
)

// rig is a Directory of two accounts on a store of its own, and the client of the root of the first.
type rig struct {
	*Client
	dir *Directory
	cfg Config
	log *recorder
}

// recorder is an audit log in memory.
type recorder struct {
	intended, recorded []audit.Event
	refuse, unrecorded error
	meanwhile          func() // what others do between the permission of a change and the change
}

func (r *recorder) Intend(_ context.Context, e audit.Event) error {
	r.intended = append(r.intended, e)
	if meanwhile := r.meanwhile; meanwhile != nil {
		r.meanwhile = nil
		meanwhile()
	}
	return r.refuse
}

func (r *recorder) Record(_ context.Context, e audit.Event) error {
	r.recorded = append(r.recorded, e)
	return r.unrecorded
}

// countingStore counts the calls that read.
type countingStore struct {
	keystore.Store
	reads   int
	records int // that Range has returned
}

func (s *countingStore) Range(ctx context.Context, index keystore.Index, prefix, after string, limit int) ([]keystore.Record, error) {
	s.reads++
	recs, err := s.Store.Range(ctx, index, prefix, after, limit)
	s.records += len(recs)
	return recs, err
}

func (s *countingStore) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	s.reads++
	return s.Store.Get(ctx, ref)
}

func (s *countingStore) Lookup(ctx context.Context, index keystore.Index, value string, after keystore.Ref, limit int) (
	[]keystore.Record, error) {
	s.reads++
	return s.Store.Lookup(ctx, index, value, after, limit)
}

func newRig(t testing.TB) *rig {
	path := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, sqlite.Create(path))
	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	log := &recorder{}
	cfg := Config{
		Partition: "aws", Accounts: []string{testAccount, otherAccount}, Regions: []string{testRegion},
		Store: store, Cache: records.New(store, slog.New(slog.DiscardHandler), time.Now),
		MAC: func(_ context.Context, epoch uint32, message []byte) ([]byte, error) {
			mac := hmac.New(sha256.New, fmt.Append(nil, "this is no secret", epoch))
			mac.Write(message)
			return mac.Sum(nil), nil
		},
		Newest: func(context.Context) (uint32, keystore.Change, error) {
			return 1, keystore.Change{Op: keystore.Check, Ref: keystore.CounterRef("", "", "none")}, nil
		},
		Epoch: func(_ context.Context, epoch uint32) (Epoch, error) {
			if epoch > 1 {
				return Epoch{}, nil
			}
			return Epoch{Key: 1}, nil
		},
		Latest:  func(context.Context) (time.Time, error) { return time.Time{}, nil },
		NoRates: true,
		Audit:   log, Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	d := New(cfg)
	return &rig{Client: d.Client().As(d.Root(testAccount)), dir: d, cfg: cfg, log: log}
}

// as returns the client of a new user with an inline policy; none, where the document is empty.
func (r *rig) as(t testing.TB, name, document string) *Client {
	t.Helper()
	user := PrincipalName{keystore.PrincipalUser, name}
	made, err := r.CreatePrincipal(t.Context(), user, PrincipalOptions{})
	require.NoError(t, err)
	if document != "" {
		require.NoError(t, r.PutPrincipalPolicy(t.Context(), user, "p", document))
	}
	caller, err := r.dir.Caller(t.Context(), made.ARN)
	require.NoError(t, err)
	return r.As(caller)
}

func mustCreatePrincipal(t testing.TB, c *Client, name PrincipalName) Principal {
	t.Helper()
	p, err := c.CreatePrincipal(t.Context(), name, PrincipalOptions{})
	require.NoError(t, err)
	return p
}

func requireAPIError(t *testing.T, err error, code, message string) {
	t.Helper()
	var api smithy.APIError
	require.ErrorAs(t, err, &api)
	require.Equal(t, code, api.ErrorCode())
	require.Equal(t, message, api.ErrorMessage())
}

func errorCode(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}

func second[T any](_ T, err error) error { return err }
