package server

import (
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	_ "github.com/mattn/go-sqlite3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/test/disk"
)

// storeIn makes a store in a directory and opens it.
func storeIn(t *testing.T, dir string) (store keystore.Store, path string) {
	t.Helper()
	path = filepath.Join(dir, "kms.db")
	require.NoError(t, sqlite.Create(path))
	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	return store, path
}

// withStore makes a fixture on a store.
func withStore(t *testing.T, store keystore.Store) (*fixture, *running) {
	f := newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) { cfg.Store = store })
	return f, f.run(t, Listen{})
}

// requireRed waits until readiness, the metric and healthz give the reason.
func (f *fixture) requireRed(t *testing.T, r *running, subject, reason string) {
	t.Helper()
	var red reply
	require.Eventually(t, func() bool {
		red = f.get(t, r.admin+"/readyz")
		return red.StatusCode == http.StatusServiceUnavailable
	}, patience, 1e6)
	require.Contains(t, red.body, reason)
	require.Equal(t, http.StatusServiceUnavailable, f.get(t, r.admin+"/healthz").StatusCode)
	series := scrape(t, f, r)
	require.Zero(t, series["pkcs11kms_ready"])
	require.EqualValues(t, 1, series[fmt.Sprintf(`pkcs11kms_not_ready{reason=%q,subject=%q}`, reason, subject)], "%v", series)
}

// requireGreen waits until readiness and the metric say so.
func (f *fixture) requireGreen(t *testing.T, r *running) {
	t.Helper()
	require.Eventually(t, func() bool { return f.get(t, r.admin+"/readyz").StatusCode == http.StatusOK }, patience, 1e6)
	series := scrape(t, f, r)
	require.EqualValues(t, 1, series["pkcs11kms_ready"])
	for name, value := range series {
		if strings.HasPrefix(name, "pkcs11kms_not_ready") {
			require.Zero(t, value, name)
		}
	}
}

const createKey = `{"KeySpec":"HMAC_256","KeyUsage":"GENERATE_VERIFY_MAC"}`

func macBody(key *types.KeyMetadata) string {
	return `{"KeyId":"` + *key.KeyId + `","MacAlgorithm":"HMAC_SHA_256","Message":"AAAA"}`
}

// Somebody sits on the store's write lock: changes are throttled, MACs go on, readiness tells, and is green by itself as
// soon as the lock is free.
func TestReadinessSeesAHeldWriteLock(t *testing.T) {
	store, path := storeIn(t, t.TempDir())
	f, r := withStore(t, store)
	key := f.mustCreate(t, types.KeySpecHmac256)
	db, err := sql.Open("sqlite3", "file:"+path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	db.SetMaxOpenConns(1)
	_, err = db.Exec("BEGIN IMMEDIATE")
	require.NoError(t, err)
	f.requireGreen(t, r) // nothing is written while no Commit has failed, so nobody knows yet

	got := f.send(t, f.request(t, r.url, "CreateKey", createKey))
	require.Equal(t, 400, got.StatusCode)
	require.Contains(t, got.body, `"__type":"ThrottlingException"`)
	require.Contains(t, f.log.String(), "(this one) holds the write lock", "the log names the holder")
	f.requireRed(t, r, "store", "store-busy")
	require.Contains(t, f.get(t, r.admin+"/readyz").body, "holds the write lock")
	require.Equal(t, 200, f.send(t, f.request(t, r.url, "GenerateMac", macBody(key))).StatusCode)

	_, err = db.Exec("ROLLBACK")
	require.NoError(t, err)
	f.requireGreen(t, r)
	require.Equal(t, 200, f.send(t, f.request(t, r.url, "CreateKey", createKey)).StatusCode)
}

// The disk is full: every change fails, readiness tells, and is green by itself when there is room again.
func TestReadinessSeesAFullDisk(t *testing.T) {
	faulty := &faultyStore{}
	fill := func() (free func()) { // where no file system can be mounted
		faulty.failCommits(fmt.Errorf("commit: %w", keystore.ErrFull))
		return func() { faulty.failCommits(nil) }
	}
	dir := t.TempDir()
	if d, ok := disk.New(t, "1m"); ok {
		dir, fill = d.Dir, d.Fill
	}
	faulty.Store, _ = storeIn(t, dir)
	f, r := withStore(t, faulty)
	key := f.mustCreate(t, types.KeySpecHmac256)
	f.requireGreen(t, r)
	free := fill()
	require.Eventually(t, func() bool { // what SQLite has of its journal is used up first
		return f.send(t, f.request(t, r.url, "CreateKey", createKey)).StatusCode == 500
	}, patience, 1e6)
	f.requireRed(t, r, "store", "store-full")
	require.Equal(t, 200, f.send(t, f.request(t, r.url, "GenerateMac", macBody(key))).StatusCode)
	free()
	f.requireGreen(t, r)
	require.Equal(t, 200, f.send(t, f.request(t, r.url, "CreateKey", createKey)).StatusCode)
}

// The token's directory is away for two seconds and a half. Calls are told so in the words of the API, those whose sender
// cannot be authenticated without any name; then everything is as before, without a restart.
func TestReadinessSeesAMovedTokenDirectory(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	key := f.mustCreate(t, types.KeySpecHmac256)
	unused, err := f.bridge.IAM().As(f.bridge.Root()).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	f.requireGreen(t, r)
	require.NoError(t, f.bridge.Health(t.Context())) // has seen every change, so that the signing key of the next request stays cached
	want := f.send(t, f.request(t, r.url, "GenerateMac", macBody(key)))
	require.Equal(t, 200, want.StatusCode)

	_, pinFile, _ := strings.Cut(f.cfg.Regions[testRegion].Token, "pin-source=file:")
	tokens := filepath.Join(filepath.Dir(pinFile), "tokens")
	require.NoError(t, os.Rename(tokens, tokens+".away"))
	began := time.Now()
	f.requireRed(t, r, testRegion, "token-lost")
	stranger := f.request(t, r.url, "GenerateMac", macBody(key))
	f.sign(t, stranger, macBody(key), signing{id: unused.ID, secret: unused.Secret})
	got := f.send(t, stranger)
	require.Equal(t, 503, got.StatusCode)
	require.Equal(t, `{"__type":"ServiceUnavailableException","message":"The service is temporarily unavailable. Try again."}`, got.body)
	for time.Since(began) < 2500*time.Millisecond {
		got := f.send(t, f.request(t, r.url, "GenerateMac", macBody(key)))
		require.Equal(t, 500, got.StatusCode, got.body)
		require.Equal(t, `{"__type":"KeyUnavailableException","message":"`+*key.Arn+` is unavailable."}`, got.body)
		require.Equal(t, 503, f.get(t, r.admin+"/readyz").StatusCode)
	}
	got = f.send(t, f.request(t, r.url, "CreateKey", createKey))
	require.Equal(t, 500, got.StatusCode, got.body)
	require.Equal(t, `{"__type":"DependencyTimeoutException","message":"The token is unavailable."}`, got.body)
	require.NoError(t, os.Rename(tokens+".away", tokens))

	f.requireGreen(t, r)
	require.Equal(t, want.body, f.send(t, f.request(t, r.url, "GenerateMac", macBody(key))).body)
	require.Equal(t, 200, f.send(t, f.request(t, r.url, "CreateKey", createKey)).StatusCode)
}

// Load alone is no reason: more callers than sessions, and changes one after the other.
func TestReadinessStaysGreenUnderLoad(t *testing.T) {
	f := newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) { cfg.MaxSessions = 2 })
	r := f.run(t, Listen{})
	key := f.mustCreate(t, types.KeySpecHmac256)
	var ended atomic.Bool
	var load sync.WaitGroup
	var served atomic.Int64
	for range 16 {
		load.Go(func() {
			for !ended.Load() {
				if f.send(t, f.request(t, r.url, "GenerateMac", macBody(key))).StatusCode == 200 {
					served.Add(1)
				}
			}
		})
	}
	for range 4 {
		load.Go(func() {
			for !ended.Load() {
				f.send(t, f.request(t, r.url, "CreateKey", createKey))
			}
		})
	}
	checks := 0
	for ; checks < 200 || served.Load() < 200; checks++ {
		if !assert.NoError(t, f.bridge.Health(t.Context())) {
			break
		}
	}
	ended.Store(true)
	load.Wait()
	f.requireGreen(t, r)
}
