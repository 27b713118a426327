package sealed_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

const (
	account = "111122223333"
	region  = "us-east-1"
)

// keyOf stands for the service key.
func keyOf(root keystore.Seals) sealed.Key { return sha256.Sum256(sealed.KeyText(root)) }

// keysOf is keyOf with that of the epoch before.
func keysOf(root keystore.Seals) sealed.Keys {
	keys := sealed.Keys{Present: keyOf(root)}
	if before, ok := sealed.Before(root); ok {
		previous := keyOf(before)
		keys.Previous = &previous
	}
	return keys
}

func newRoot() keystore.Seals {
	return keystore.Seals{Store: []byte("0123456789abcdef"), Epoch: 1, Region: region, CKAID: []byte{1}, Spec: "HMAC_256"}
}

// newBelow is an empty store.
func newBelow(t *testing.T) *sqlite.Store {
	path := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, sqlite.Create(path))
	return openBelow(t, path)
}

func openBelow(t *testing.T, path string) *sqlite.Store {
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// seal seals all records of a store.
func seal(t *testing.T, below keystore.Store, root keystore.Seals) {
	t.Helper()
	version, err := sealed.Begin(t.Context(), below, root, open(t, below, sealed.Options{}).Version())
	require.NoError(t, err)
	require.NoError(t, sealed.SealAll(t.Context(), below, root, version, keyOf(root), time.Now(), func(int) {}))
}

// open opens a store, as one more process would, and has it unlocked.
func open(t *testing.T, below keystore.Store, o sealed.Options) *sealed.Store {
	t.Helper()
	s, err := sealed.New(t.Context(), below, o)
	require.NoError(t, err)
	s.UnlockBy(func(ctx context.Context) error {
		root, _ := s.Root()
		return s.Unlock(ctx, keysOf(root))
	})
	return s
}

// newSealed is a store with samples, and the one below.
func newSealed(t *testing.T) (*sealed.Store, *sqlite.Store) {
	below := newBelow(t)
	for _, sample := range samples() {
		mustCommit(t, below, sample.Put(0))
	}
	seal(t, below, newRoot())
	return open(t, below, sealed.Options{}), below
}

func mustCommit(t *testing.T, s keystore.Store, changes ...keystore.Change) uint64 {
	t.Helper()
	version, err := s.Commit(t.Context(), changes...)
	require.NoError(t, err)
	return version
}

func mustGet(t *testing.T, s keystore.Store, ref keystore.Ref) keystore.Record {
	t.Helper()
	rec, err := s.Get(t.Context(), ref)
	require.NoError(t, err)
	return rec
}

// record is what records are made of.
type record interface {
	Put(expect uint64) keystore.Change
}

// samples has one of each kind, with every field set.
func samples() []record {
	at, later := time.Unix(1e9, 0).UTC(), time.Unix(2e9, 0).UTC()
	return []record{
		&keystore.Key{Region: region, Account: account, ID: "1234abcd-12ab-34cd-56ef-1234567890ab", State: keystore.PendingDeletion,
			Spec: "HMAC_256", Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", Created: at, Description: "tokens", Instance: "i", CKAID: []byte{7},
			DeletionDate: later, Aliases: 1, Tags: []keystore.Tag{{Key: "team", Value: "web"}}, Policy: "{}", Adopted: keystore.AdoptedKeep,
			Label: "l", PublicKey: []byte{1, 2}, Proof: []byte{3},
			Import: &keystore.Import{Held: true, ValidTo: later, Fingerprint: []byte{4}, Removed: 1}},
		&keystore.Region{Name: region, Serial: "1", Label: "kms", Manufacturer: "m", Model: "n", Retired: &at, Unable: "2.1",
			Binding: &keystore.Binding{CKAID: []byte{1}, Spec: "HMAC_256", Proof: []byte{2}}, Learnt: []byte(`{"at":"x"}`)},
		&keystore.Alias{Region: region, Account: account, Name: "alias/tokens", Target: "1234abcd-12ab-34cd-56ef-1234567890ab",
			Created: at, Updated: at},
		&keystore.Counter{Region: region, Account: account, Name: keystore.CounterKeys, N: 3},
		&keystore.AccessKey{ID: "AKIAABCDEFGHIJKLMNOP", Account: account, Owner: "AIDAABCDEFGHIJKLMNOPQ", Status: keystore.AccessKeyInactive,
			Created: at, Epoch: 2},
		&keystore.Principal{Account: account, ID: "AROAABCDEFGHIJKLMNOPQ", Type: keystore.PrincipalRole, Name: "Signer", Path: "/", Created: at,
			Description: "signs", TrustPolicy: "{}", MaxSessionDuration: 7200, AccessKeys: 1,
			Tags: []keystore.Tag{{Key: "a", Value: "b"}}, Attached: []keystore.Attached{{ID: "ANPAABCDEFGHIJKLMNOPQ", Revision: 1}},
			Policies: []keystore.InlinePolicy{{Name: "allow", Document: "{}"}, {Name: "deny", Document: "{ }"}}},
		&keystore.KeyUse{Region: region, Account: account, KeyID: "1234abcd-12ab-34cd-56ef-1234567890ab", Operation: "GenerateMac", At: at,
			Event: "e", Request: "r"},
		&keystore.Principal{Account: account, ID: "AROAABCDEFGHIJKLMNOPR", Type: keystore.PrincipalRole, Name: "Older", Path: "/", Created: at,
			Trust: "{}"},
		&keystore.Principal{Account: account, ID: "AIDAABCDEFGHIJKLMNOPQ", Type: keystore.PrincipalUser, Name: "Alice", Path: "/", Created: at,
			Groups: []keystore.Attached{{ID: "AGPAABCDEFGHIJKLMNOPQ", Revision: 2}}},
		&keystore.Principal{Account: account, ID: "AGPAABCDEFGHIJKLMNOPQ", Type: keystore.PrincipalGroup, Name: "Signers", Path: "/", Created: at,
			Revision: 2},
		&keystore.ManagedPolicy{Account: account, ID: "ANPAABCDEFGHIJKLMNOPQ", Name: "Sign", Path: "/", Description: "d", Created: at,
			Updated: at, Revision: 2, Default: 2, Last: 2, Tags: []keystore.Tag{{Key: "a", Value: "b"}},
			Versions: []keystore.PolicyVersion{{Number: 1, Created: at, Document: "{}"}, {Number: 2, Created: at, Document: "{ }"}}},
		&keystore.Grant{Region: region, Account: account, ID: strings.Repeat("0a", 32), Key: "1234abcd-12ab-34cd-56ef-1234567890ab",
			CKAID: []byte{7}, Name: "n", Grantee: account + "/AIDAABCDEFGHIJKLMNOPQ", Retiring: account + "/AROAABCDEFGHIJKLMNOPQ", Issuer: account,
			Operations: []string{"GenerateMac", "VerifyMac"}, SourceARN: "a", Created: at, TokenKey: bytes.Repeat([]byte{1}, 32)},
		&keystore.Grantee{Region: region, Account: account, Key: "1234abcd-12ab-34cd-56ef-1234567890ab",
			Principal: account + "/AIDAABCDEFGHIJKLMNOPQ", CKAID: []byte{7},
			Gives: []keystore.OperationSet{{Operations: []string{"GenerateMac"}, Grants: 1}}},
		&keystore.Account{ID: "111122223333", Name: "team", Created: at},
		&keystore.OIDCProvider{Account: account, URL: "oidc.example.org/a", Created: at, ClientIDs: []string{"kms", "sts"},
			Thumbprints: []string{"00"}, Tags: []keystore.Tag{{Key: "Team", Value: "id"}}, Keys: `{"keys":[]}`},
	}
}
