package pkcs11kms

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// countingStore is a real store that notes what is asked of it, but for the poller's looks.
type countingStore struct {
	keystore.Store
	mu      sync.Mutex // guards what follows
	calls   []string
	records int // that were read
}

func (s *countingStore) note(call string, records int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	s.records += records
}

// take returns the calls since the last take.
func (s *countingStore) take() []string {
	calls, _ := s.reset()
	return calls
}

// read returns how many calls and records there were since the last take or read.
func (s *countingStore) read() string {
	calls, records := s.reset()
	return fmt.Sprintf("%d calls, %d records", len(calls), records)
}

func (s *countingStore) reset() (calls []string, records int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls, records = s.calls, s.records
	s.calls, s.records = nil, 0
	return calls, records
}

func (s *countingStore) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	s.note("Get "+string(ref.Kind), 1)
	return s.Store.Get(ctx, ref)
}

func (s *countingStore) List(ctx context.Context, kind keystore.Kind, region, account, after string, limit int) ([]keystore.Record, error) {
	recs, err := s.Store.List(ctx, kind, region, account, after, limit)
	s.note("List "+string(kind), len(recs))
	return recs, err
}

func (s *countingStore) Lookup(ctx context.Context, index keystore.Index, value string,
	after keystore.Ref, limit int) ([]keystore.Record, error) {
	recs, err := s.Store.Lookup(ctx, index, value, after, limit)
	s.note("Lookup "+string(index), len(recs))
	return recs, err
}

// counting returns a configuration of a token and of a store that counts.
func counting(t *testing.T) (testConfig, *countingStore) {
	cfg := newConfig(t)
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store := &countingStore{Store: real}
	cfg.Store, cfg.StorePath = store, ""
	return cfg, store
}
