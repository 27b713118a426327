package keystoretest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
)

// samplePrincipal is a principal whose id repeats one letter.
func samplePrincipal(t keystore.PrincipalType, letter, name string) keystore.Principal {
	return keystore.Principal{
		Account: account, ID: keystore.PrincipalID(t, strings.Repeat(letter, keystore.PrincipalIDLength)),
		Type: t, Name: name, Path: "/", Created: time.Date(2026, 11, 22, 10, 11, 12, 0, time.UTC),
	}
}

func testUniqueIndexesAreApart(t *testing.T, open Opener) {
	s := open(t)
	same := keystore.PrincipalNameValue(account, keystore.PrincipalUser, "alice")
	mustCommit(t, s, put("a", 0, "", ckaID(same)), samplePrincipal(keystore.PrincipalUser, "A", "alice").Put(0))
	assert.Equal(t, []string{"a"}, found(t, s, keystore.IndexCKAID, same))
	assert.Equal(t, []string{"AIDAAAAAAAAAAAAAAAAAA"}, found(t, s, keystore.IndexPrincipalName, same))
}

func testPrincipalNamesAreUnique(t *testing.T, open Opener) {
	s := open(t)
	alice := samplePrincipal(keystore.PrincipalUser, "A", "Alice")
	version := mustCommit(t, s, alice.Put(0))
	_, err := s.Commit(t.Context(), samplePrincipal(keystore.PrincipalUser, "B", "aLICE").Put(0))
	require.ErrorIs(t, err, keystore.ErrExists, "names have no case")

	elsewhere := samplePrincipal(keystore.PrincipalUser, "B", "Alice")
	elsewhere.Account = "444455556666"
	mustCommit(t, s, samplePrincipal(keystore.PrincipalRole, "A", "Alice").Put(0), elsewhere.Put(0))

	mustCommit(t, s, keystore.Change{Op: keystore.Delete, Ref: alice.Ref(), Expect: version})
	var group errgroup.Group
	won := make(chan string, 8)
	for _, letter := range "BCDEFGHI" {
		group.Go(func() error {
			heir := samplePrincipal(keystore.PrincipalUser, string(letter), "alice")
			_, err := s.Commit(t.Context(), heir.Put(0))
			if err == nil {
				won <- heir.ID
				return nil
			}
			if !assert.ErrorIs(t, err, keystore.ErrExists) {
				return err
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	require.Len(t, won, 1, "the name is free for one")
	name := keystore.PrincipalNameValue(account, keystore.PrincipalUser, "ALICE")
	assert.Equal(t, []string{<-won}, found(t, s, keystore.IndexPrincipalName, name))
}
