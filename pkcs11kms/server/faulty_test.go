package server

import (
	"context"
	"strings"
	"sync"

	"github.com/pkcs11kms/bridge/keystore"
)

// faultyStore is a real store in front of which faults can be put.
type faultyStore struct {
	keystore.Store

	mu     sync.Mutex
	err    error  // the answer of Get and List
	commit error  // the answer of Commit
	before func() // of Get and List
}

func (s *faultyStore) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *faultyStore) hook(before func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

func (s *faultyStore) fault() error {
	s.mu.Lock()
	before, err := s.before, s.err
	s.mu.Unlock()
	if before != nil {
		before()
	}
	return err
}

func (s *faultyStore) failCommits(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commit = err
}

func (s *faultyStore) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	s.mu.Lock()
	err := s.commit
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return s.Store.Commit(ctx, changes...)
}

func (s *faultyStore) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	if err := s.fault(); err != nil {
		return keystore.Record{}, err
	}
	return s.Store.Get(ctx, ref)
}

func (s *faultyStore) List(ctx context.Context, kind keystore.Kind, region, account, after string, limit int) ([]keystore.Record, error) {
	if err := s.fault(); err != nil {
		return nil, err
	}
	return s.Store.List(ctx, kind, region, account, after, limit)
}

// replaceKeyID puts an access key id of nobody into an Authorization header.
func replaceKeyID(header, id string) string {
	return strings.Replace(header, id, "AKIAIOSFODNN7EXAMPLE", 1)
}
