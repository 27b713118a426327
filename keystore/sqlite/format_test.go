package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// recordFormats writes down what records are made of: whatever changes here is unknown to the programs before.
func recordFormats() string {
	var b strings.Builder
	for kind, record := range map[keystore.Kind]any{
		keystore.KindKey: keystore.Key{}, keystore.KindRegion: keystore.Region{}, keystore.KindAlias: keystore.Alias{},
		keystore.KindCounter: keystore.Counter{}, keystore.KindAccessKey: keystore.AccessKey{}, keystore.KindPrincipal: keystore.Principal{},
		keystore.KindSeals: keystore.Seals{}, keystore.KindKeyUse: keystore.KeyUse{},
		keystore.KindManagedPolicy: keystore.ManagedPolicy{}, keystore.KindMember: keystore.Member{},
		keystore.KindGrant: keystore.Grant{}, keystore.KindGrantee: keystore.Grantee{},
		keystore.KindAccount: keystore.Account{}, keystore.KindOIDCProvider: keystore.OIDCProvider{},
	} {
		writeFields(&b, string(kind), reflect.TypeOf(record))
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	return strings.Join(sorted(lines), "\n") + "\n"
}

func writeFields(b *strings.Builder, name string, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == "-" {
			continue
		}
		fmt.Fprintf(b, "%s.%s %s\n", name, tag, f.Type.Kind())
		if kind := f.Type.Kind(); kind != reflect.Slice && kind != reflect.Pointer {
			continue
		}
		if elem := f.Type.Elem(); elem.Kind() == reflect.Struct && elem.PkgPath() == t.PkgPath() {
			writeFields(b, name+"."+tag, elem)
		}
	}
}

// The store knows the least version of the program that reads it. A record of a new form needs a new number: a migration,
// which may change no table, with its frozen store and its list beside the old ones.
func TestNewRecordsNeedANewVersion(t *testing.T) {
	path := filepath.Join("testdata", fmt.Sprintf("records-v%d.txt", sqlite.Version()))
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), recordFormats(), "see migrate.go: what is in a released list is never changed")
}

func TestALaterStoreIsRefusedAtOpen(t *testing.T) {
	path := newPath(t)
	db := raw(t, path)
	mustExec(t, db, fmt.Sprintf("PRAGMA user_version = %d", sqlite.Version()+1))
	require.NoError(t, db.Close())
	before := snapshot(t, filepath.Dir(path))
	_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	requireHint(t, err, fmt.Sprintf("schema version %d is newer than version %d of this program", sqlite.Version()+1, sqlite.Version()))
	assert.Equal(t, before, snapshot(t, filepath.Dir(path)))
}
