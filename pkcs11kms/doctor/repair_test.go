package doctor

import (
	"context"
	"encoding/hex"
	"errors"
	"sync"
	"testing"

	"github.com/ThalesIgnite/crypto11"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// spoil makes records disagree as only a defect or an edit by hand could.
func spoil(t *testing.T, c *client, keyID *string) {
	counter, version, err := records.ReadCounter(t.Context(), c.inside.Store, testRegion, testAccount, keystore.CounterKeys)
	require.NoError(t, err)
	counter.N = 77
	put(t, c, counter.Put(version))
	record, version := storedKey(t, c, keyID)
	record.Aliases = 5
	put(t, c, record.Put(version))
	put(t, c, keystore.Alias{Region: testRegion, Account: testAccount, Name: "alias/dangling", Target: unknownID}.Put(0))
}

func TestRepair(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	done, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.Empty(t, done)

	key, other := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/good", key.KeyId)
	_, err = c.token().GenerateHMACKey(t.Context(), token.SHA256, []byte("theirs"), "theirs")
	require.NoError(t, err)
	require.True(t, examine(t.Context(), cfg).OK())
	spoil(t, c, key.KeyId)

	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "all of it works: %+v", r.Checks)
	for subject, text := range map[[2]string]string{
		{"store", testRegion}:       "account 111122223333 has 2 keys, but their counter says 77",
		{"key", *key.KeyId}:         "has 1 aliases, but its record counts 5",
		{"alias", "alias/dangling"}: "names the key " + unknownID + ", which is not in the store",
	} {
		check := r.find(subject[0], subject[1])[0]
		require.Equal(t, Check{subject[0], subject[1], StatusWarning, text, "pkcs11kms doctor --repair"}, check)
	}
	require.Empty(t, r.find("alias", "alias/good"))
	require.Len(t, r.find("key", *other.KeyId), 1)

	done, err = Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		"corrected the counter of the keys of account 111122223333 in us-west-2 from 77 to 2",
		"corrected the number of aliases of the key " + *key.KeyId + " from 5 to 1",
		"removed the alias alias/dangling of the missing key " + unknownID,
	}, done)
	require.Equal(t, 2, keyCount(t, c))
	record, _ := storedKey(t, c, key.KeyId)
	require.Equal(t, 1, record.Aliases)
	require.Equal(t, []string{"alias/good"}, aliasesOf(t, c))
	for _, check := range examine(t.Context(), cfg).Checks {
		require.Equal(t, StatusOK, check.Status, "%+v", check)
	}
	done, err = Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.Empty(t, done)
	_, err = c.token().Describe(t.Context(), []byte("theirs"))
	require.NoError(t, err, "nobody named it")
}

// A counter counts wrongly also where there is nothing to count.
func TestRepairOfCountersOfNothing(t *testing.T) {
	c := newClient(t)
	put(t, c, keystore.Counter{Region: testRegion, Account: testAccount, Name: keystore.CounterKeys, N: 3}.Put(0))
	put(t, c, keystore.Counter{Account: testAccount, Name: keystore.CounterRoles, N: 4}.Put(0))
	done, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		"corrected the counter of the keys of account 111122223333 in us-west-2 from 3 to 0",
		"corrected the counter of the roles of account 111122223333 from 4 to 0",
	}, done)
	requireNoDiscrepancies(t, c)
}

func TestRepairFinishesWhatTheDeadLeft(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	put(t, c, keystore.Counter{Region: testRegion, Account: testAccount, Name: keystore.CounterKeys, N: 1}.Put(0))
	mine := halfMade(c.inside.Store.Instance(), keystore.Creating)
	_, err := c.token().GenerateHMACKey(t.Context(), token.SHA256, mine.CKAID, mine.ID)
	require.NoError(t, err)
	put(t, c, mine.Put(0))
	done, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	// The janitor of the same process may have been faster.
	require.Subset(t, []string{"removed the key " + unknownID + ", which was left half made or half deleted"}, done)
	_, err = c.inside.Store.Get(t.Context(), mine.Ref())
	require.ErrorIs(t, err, keystore.ErrNotFound)
	requireNothingHalfMade(t, c, 0)
}

func TestRepairTellsWhatFailed(t *testing.T) {
	c, store, _ := withFaults(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	spoil(t, c, key.KeyId)
	store.hook(func(changes []keystore.Change) error {
		if changes[0].Ref.Kind == keystore.KindCounter {
			return errDisk
		}
		return nil
	}, nil)
	done, err := Repair(t.Context(), c.Client)
	require.ErrorIs(t, err, errDisk)
	store.hook(nil, nil)
	again, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.Len(t, append(done, again...), 3)
}

// Keys and aliases come and go while others repair and examine: nothing that is right is found wrong, or made so.
func TestRepairDuringChanges(t *testing.T) {
	cfg := newConfig(t)
	clients := []*client{openClient(t, cfg), openClient(t, cfg)}
	target := mustCreate(t, clients[0], types.KeySpecHmac256)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	for i, c := range clients {
		load.Go(func() {
			name := []string{"alias/a", "alias/b"}[i]
			for ctx.Err() == nil {
				_, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: target.KeyId})
				if err == nil {
					_, err = c.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: &name})
				}
				if err != nil {
					t.Errorf("changing aliases: %v", err)
					return
				}
			}
		})
	}
	load.Go(func() {
		for n := 0; ctx.Err() == nil && n < 200; n++ {
			if _, err := clients[0].CreateKey(t.Context(), hmac256); err != nil {
				t.Errorf("creating keys: %v", err)
				return
			}
		}
	})
	for range 20 {
		done, err := Repair(t.Context(), clients[1].Client)
		if err != nil {
			require.ErrorContains(t, err, "come and go too fast", "the counter never stood still for long enough")
		}
		require.Empty(t, done)
	}
	stop()
	load.Wait()
	for _, check := range examine(t.Context(), cfg).Checks {
		require.Equal(t, StatusOK, check.Status, "%+v", check)
	}
}

func TestDestroyObject(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	byCrypto11(t, tok, func(other *crypto11.Context) {
		object(t, other, "lost", "lost", 256, nil)
		object(t, other, "precious", "precious", 256, nil)
		object(t, other, "shared", "a", 256, nil)
		object(t, other, "shared", "b", 256, nil)
	})
	c := openClient(t, cfg)
	ours := mustCreate(t, c, types.KeySpecHmac256)
	var ourID []byte
	for _, k := range examine(t.Context(), cfg).Regions[0].Keys {
		var err error
		ourID, err = hex.DecodeString(k.CKAID)
		require.NoError(t, err)
	}
	destroy := func(id []byte) error { return DestroyObject(t.Context(), c.Client, id) }
	requireRefused(t, destroy(nil), "empty CKA_ID")
	requireRefused(t, destroy([]byte("none")), "no object of the token has the CKA_ID 6e6f6e65")
	requireRefused(t, destroy([]byte("shared")), "several objects")
	requireRefused(t, destroy(ourID), "belongs to a key: the object with the CKA_ID")
	require.Len(t, examine(t.Context(), cfg).Regions[0].Unknown, 4)

	require.NoError(t, destroy([]byte("lost")))
	requireRefused(t, destroy([]byte("lost")), "no object")
	var left []string
	for _, o := range examine(t.Context(), cfg).Regions[0].Unknown {
		left = append(left, o.Label)
	}
	require.ElementsMatch(t, []string{"precious", "a", "b"}, left, "just the one")
	_, err := generate(t.Context(), c, ours.KeyId, []byte("m"))
	require.NoError(t, err)
	recs, err := c.inside.Store.Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 1)
	require.NoError(t, err)
	require.Empty(t, recs, "no claim is left")
}

func TestRepairOfPrincipals(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	b := c.bridge
	alice := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "Alice"}
	producer := iam.PrincipalName{Type: keystore.PrincipalRole, Name: "JwtProducer"}
	var ids []string
	var keys []iam.AccessKey
	for _, name := range []iam.PrincipalName{alice, producer} {
		made, err := b.IAM().As(b.Root()).CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
		require.NoError(t, err)
		key, err := b.IAM().As(b.Root()).CreateAccessKey(t.Context(), name)
		require.NoError(t, err)
		ids, keys = append(ids, made.ID), append(keys, key)
	}
	lost, orphan := ids[1], keys[1]
	require.True(t, examine(t.Context(), cfg).OK())
	requireNoDiscrepancies(t, c)

	rec, err := c.inside.Store.Get(t.Context(), keystore.PrincipalRef(testAccount, lost))
	require.NoError(t, err)
	put(t, c, keystore.Change{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version})
	rec, err = c.inside.Store.Get(t.Context(), keystore.PrincipalRef(testAccount, ids[0]))
	require.NoError(t, err)
	record, err := keystore.DecodePrincipal(rec)
	require.NoError(t, err)
	record.AccessKeys = 7
	put(t, c, record.Put(rec.Version))
	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "all of it works: %+v", r.Checks)
	for subject, text := range map[[2]string]string{
		{"user", "Alice"}:         "has 1 access keys, but its record counts 7",
		{"access key", orphan.ID}: "belongs to the principal " + lost + ", which is not in the store",
		{"store", testAccount}:    "account 111122223333 has 0 roles, but their counter says 1",
	} {
		require.Equal(t, Check{subject[0], subject[1], StatusWarning, text, "pkcs11kms doctor --repair"}, r.find(subject[0], subject[1])[0])
	}
	done, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		"corrected the number of access keys of the user Alice from 7 to 1",
		"ended the access key " + orphan.ID + " of the missing principal " + lost,
		"corrected the counter of the roles of account 111122223333 from 1 to 0",
	}, done)
	requireNoDiscrepancies(t, c)
	for i, want := range []error{nil, iam.ErrUnknownAccessKey} {
		_, _, err = b.SigningKey(t.Context(), keys[i].ID, "20260102", testRegion, "kms")
		require.ErrorIs(t, err, want)
	}
	left, err := b.IAM().As(b.Root()).ListPrincipals(t.Context(), keystore.PrincipalUser, "")
	require.NoError(t, err)
	require.Len(t, left, 1, "Alice")
}

// What an operator does to records and objects asks its caller: nobody else than the root may, but whom a policy allows it.
func TestAdministrationAsksItsCaller(t *testing.T) {
	c := openClient(t, newConfig(t))
	root := c.bridge.IAM().As(c.bridge.Root())
	name := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "Operator"}
	made, err := root.CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
	require.NoError(t, err)
	caller, err := c.bridge.Caller(t.Context(), made.ARN)
	require.NoError(t, err)
	var refused *pkcs11kms.RefusedError
	for action, call := range map[string]func(*pkcs11kms.Client) error{
		"AdoptKey": func(c *pkcs11kms.Client) error {
			_, _, err := AdoptKey(t.Context(), c, AdoptOptions{Label: "none", KeySpec: types.KeySpecHmac256})
			if errors.As(err, &refused) {
				return nil // there is no such object, which only those learn who may look
			}
			return err
		},
		"DestroyObject": func(c *pkcs11kms.Client) error {
			if err := DestroyObject(t.Context(), c, []byte("none")); !errors.As(err, &refused) {
				return err
			}
			return nil
		},
		"RepairRecords": func(c *pkcs11kms.Client) error { _, err := Repair(t.Context(), c); return err },
	} {
		for who, client := range map[string]*pkcs11kms.Client{"anonymous": c.As(pkcs11kms.Caller{}), made.ARN: c.As(caller)} {
			var api smithy.APIError
			require.ErrorAs(t, call(client), &api)
			require.Equal(t, "AccessDeniedException", api.ErrorCode())
			require.Contains(t, api.ErrorMessage(), "User: "+who+" is not authorized to perform: pkcs11kms:"+action+" on resource: *")
		}
		document := `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "pkcs11kms:` + action + `", "Resource": "*"}}`
		require.NoError(t, root.PutPrincipalPolicy(t.Context(), name, "p", document))
		require.NoError(t, call(c.As(caller)), action)
		require.NoError(t, root.DeletePrincipalPolicy(t.Context(), name, "p"))
	}
}
