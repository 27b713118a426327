package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
)

// sealing agrees, and keeps what was listed.
func sealing(again bool, listed *[]string) Sealing {
	return Sealing{
		Again: again,
		List: func(line string) error {
			*listed = append(*listed, line)
			return nil
		},
		Agree:    func(int) (bool, error) { return true, nil },
		Progress: func(int) {},
	}
}

func sealStore(t *testing.T, cfg statedir.Config, again bool) (listed []string) {
	t.Helper()
	_, err := SealRecords(t.Context(), cfg.Config, cfg.OpenStore, sealing(again, &listed))
	require.NoError(t, err)
	return listed
}

// edit changes the value of a record as who can write to the store's file does.
func edit(t *testing.T, cfg statedir.Config, ref keystore.Ref, change func(*keystore.Record)) {
	t.Helper()
	inStore(t, cfg, func(store keystore.Store) {
		rec, err := store.Get(t.Context(), ref)
		require.NoError(t, err)
		change(&rec)
		bare := rec
		bare.Seal = nil
		index, err := keystore.EntriesOf(bare)
		require.NoError(t, err, "nothing but the seal is wrong")
		_, err = store.Commit(t.Context(), keystore.Change{Op: keystore.Put, Ref: rec.Ref, Expect: rec.Version, Value: rec.Value, Seal: rec.Seal,
			Index: index})
		require.NoError(t, err)
	})
}

func replacing(old, with string) func(*keystore.Record) {
	return func(rec *keystore.Record) {
		if !bytes.Contains(rec.Value, []byte(old)) {
			panic(fmt.Sprintf("%s is not in %s", old, rec.Value))
		}
		rec.Value = bytes.Replace(rec.Value, []byte(old), []byte(with), 1)
	}
}

// filled is a store with two keys, an alias, a user with a policy and an access key, and a role. It is closed.
type filled struct {
	cfg            statedir.Config
	tok            softhsm.TestToken
	keyID, other   string
	user, accessID string
}

func newFilled(t *testing.T) filled {
	t.Helper()
	cfg, tok := newConfigAndToken(t)
	f := filled{cfg: cfg, tok: tok}
	c := openClient(t, cfg)
	f.keyID, f.other = *mustCreate(t, c, types.KeySpecHmac256).KeyId, *mustCreate(t, c, types.KeySpecHmac256).KeyId
	createAlias(t, c, "alias/tokens", &f.keyID)
	people := c.bridge.IAM().As(c.bridge.Root())
	alice := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "alice"}
	user, err := people.CreatePrincipal(t.Context(), alice, iam.PrincipalOptions{})
	require.NoError(t, err)
	f.user = user.ID
	require.NoError(t, people.PutPrincipalPolicy(t.Context(), alice, "macs",
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"},`+
			`{"Effect":"Deny","Action":"kms:GenerateMac","Resource":"*"}]}`))
	key, err := people.CreateAccessKey(t.Context(), alice)
	require.NoError(t, err)
	f.accessID = key.ID
	_, err = people.CreatePrincipal(t.Context(), iam.PrincipalName{Type: keystore.PrincipalRole, Name: "signer"}, iam.PrincipalOptions{
		TrustPolicy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + testAccount +
			`"},"Action":"sts:AssumeRole"}]}`})
	require.NoError(t, err)
	require.NoError(t, c.bridge.Close())
	return f
}

// requireInternal holds that a call is refused by an internal error that tells nothing, and that its cause names the record.
func requireInternal(t *testing.T, err error, record string) {
	t.Helper()
	var api smithy.APIError
	require.ErrorAs(t, err, &api)
	require.Equal(t, "KMSInternalException", api.ErrorCode())
	require.NotContains(t, api.ErrorMessage(), record)
	var refused *sealed.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, record, refused.Ref.ID)
}

// requireNamed holds that doctor names a record whose seal is not right, and no other one.
func requireNamed(t *testing.T, cfg statedir.Config, record string) {
	t.Helper()
	var named []string
	for _, check := range examine(t.Context(), cfg).Checks {
		if check.Status == StatusError && strings.Contains(check.Hint, keyring.ResealCommand) {
			named = append(named, check.Text)
		}
	}
	require.Len(t, named, 1, "%s", named)
	require.Contains(t, named[0], record)
}

// A sealed store works as before, also for a process that opens it later, and doctor says so.
func TestSealedStore(t *testing.T) {
	f := newFilled(t)
	listed := sealStore(t, f.cfg, false)
	for _, want := range []string{f.keyID, f.other, "alias/tokens of key " + f.keyID,
		"user " + testAccount + "/alice", "role " + testAccount + "/signer",
		"access key " + f.accessID + " of " + testAccount + "/" + f.user, "region " + testRegion, keyring.SecretsKey} {
		require.Contains(t, strings.Join(listed, "\n"), want)
	}
	for range 2 {
		c := openClient(t, f.cfg)
		_, err := generate(t.Context(), c, aws.String("alias/tokens"), []byte("m"))
		require.NoError(t, err)
		id := mustCreate(t, c, types.KeySpecHmac256).KeyId
		schedule(t, c, id, 7)
		_, err = c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: id})
		require.NoError(t, err)
		out, err := c.ListKeys(t.Context(), &kms.ListKeysInput{})
		require.NoError(t, err)
		require.NotEmpty(t, out.Keys)
		require.NoError(t, c.bridge.Close())
	}
	r := examine(t.Context(), f.cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	require.Contains(t, fmt.Sprint(r.Checks), "of the epoch 1, are right")

	_, err := SealRecords(t.Context(), f.cfg.Config, f.cfg.OpenStore, sealing(false, &listed))
	require.ErrorContains(t, err, "sealed already")
}

// What somebody edits in the store's file is refused where it is used, and named by doctor.
func TestEditsOfASealedStore(t *testing.T) {
	f := newFilled(t)
	c := openClient(t, f.cfg)
	_, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &f.keyID})
	require.NoError(t, err)
	require.NoError(t, c.bridge.Close())
	sealStore(t, f.cfg, false)
	mac := func(c *client) error {
		_, err := generate(t.Context(), c, &f.keyID, []byte("m"))
		return err
	}
	asAlice := func(c *client) error {
		_, alice, err := c.bridge.SigningKey(t.Context(), f.accessID, "20261130", testRegion, "kms")
		if err != nil {
			return err
		}
		_, err = c.As(alice).GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: &f.other, Message: []byte("m"),
			MacAlgorithm: types.MacAlgorithmSpecHmacSha256})
		return err
	}
	for name, test := range map[string]struct {
		ref    keystore.Ref
		change func(*keystore.Record)
		use    func(*client) error
	}{
		"a disabled key is enabled": {keystore.KeyRef(testRegion, testAccount, f.keyID), replacing(`"Disabled"`, `"Enabled"`), mac},
		"a policy allows more": {keystore.KeyRef(testRegion, testAccount, f.other),
			replacing(`"}`, `","policy":"{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",`+
				`\"Principal\":\"*\",\"Action\":\"kms:*\",\"Resource\":\"*\"}]}"}`), asAlice},
		"an alias names another key": {keystore.AliasRef(testRegion, testAccount, "alias/tokens"), replacing(f.keyID, f.other),
			func(c *client) error {
				_, err := generate(t.Context(), c, aws.String("alias/tokens"), []byte("m"))
				return err
			}},
		"a deny is deleted": {keystore.PrincipalRef(testAccount, f.user),
			replacing(`,{\"Effect\":\"Deny\",\"Action\":\"kms:GenerateMac\",\"Resource\":\"*\"}`, ``), asAlice},
		"an access key is another's": {keystore.AccessKeyRef(f.accessID), replacing(f.user, testAccount), asAlice},
		"a seal is stripped":         {keystore.PrincipalRef(testAccount, f.user), func(rec *keystore.Record) { rec.Seal = nil }, asAlice},
	} {
		t.Run(name, func(t *testing.T) {
			var before keystore.Record
			edit(t, f.cfg, test.ref, func(rec *keystore.Record) {
				before = *rec
				test.change(rec)
			})
			c := openClient(t, f.cfg)
			requireInternal(t, test.use(c), test.ref.ID)
			require.NoError(t, c.bridge.Close())
			requireNamed(t, f.cfg, test.ref.ID)
			edit(t, f.cfg, test.ref, func(rec *keystore.Record) { rec.Value, rec.Seal = before.Value, before.Seal })
			require.True(t, examine(t.Context(), f.cfg).OK(), "put back as it was")
		})
	}
}

// While a process runs, an edit is refused as soon as the process reads the record anew: a second, as for every change by others.
func TestEditsBesideARunningProcess(t *testing.T) {
	f := newFilled(t)
	sealStore(t, f.cfg, false)
	c := openClient(t, f.cfg)
	ref := keystore.KeyRef(testRegion, testAccount, f.keyID)
	var old keystore.Record
	inStore(t, f.cfg, func(store keystore.Store) {
		var err error
		old, err = store.Get(t.Context(), ref)
		require.NoError(t, err)
	})
	_, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &f.keyID})
	require.NoError(t, err)
	_, err = c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &f.keyID})
	require.NoError(t, err)
	edit(t, f.cfg, ref, func(rec *keystore.Record) { rec.Value, rec.Seal = old.Value, old.Seal })
	require.Eventually(t, func() bool {
		_, err := generate(t.Context(), c, &f.keyID, []byte("m"))
		refused, ok := errors.AsType[*sealed.Error](err)
		return ok && strings.Contains(refused.Error(), "was put back to what it was before")
	}, 5*time.Second, 10*time.Millisecond)
}

// Who takes the seals away, and all that tells of them, is found by the token: it has the key.
func TestStrippedStore(t *testing.T) {
	f := newFilled(t)
	sealStore(t, f.cfg, false)
	inStore(t, f.cfg, func(store keystore.Store) {
		recs, err := store.All(t.Context(), keystore.Ref{}, keystore.MaxPage)
		require.NoError(t, err)
		for _, rec := range recs {
			change := keystore.Change{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version}
			if rec.Seal = nil; rec.Ref.Kind != keystore.KindSeals && rec.Ref.ID != keyring.SealKey {
				index, err := keystore.EntriesOf(rec)
				require.NoError(t, err)
				change.Op, change.Value, change.Index = keystore.Put, rec.Value, index
			}
			_, err := store.Commit(t.Context(), change)
			require.NoError(t, err)
		}
	})
	err := useKey(t, f.cfg, f.keyID)
	var refused *keyring.SealError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Error(), "has a key for the seals of records, and the records of this store have none")
	require.Contains(t, refused.Hint(), keyring.SealCommand)
	sealStore(t, f.cfg, false)
	require.NoError(t, useKey(t, f.cfg, f.keyID))
}

// A store is sealed by nobody while others have it open, and not without having agreed.
func TestSealingIsRefused(t *testing.T) {
	f := newFilled(t)
	var listed []string
	no := sealing(false, &listed)
	no.Agree = func(n int) (bool, error) { return false, nil }
	_, err := SealRecords(t.Context(), f.cfg.Config, f.cfg.OpenStore, no)
	var refused *pkcs11kms.RefusedError
	require.ErrorAs(t, err, &refused)
	require.NotEmpty(t, listed)
	_, err = SealRecords(t.Context(), f.cfg.Config, f.cfg.OpenStore, sealing(true, &listed))
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Error(), "have no seals")

	c := openClient(t, f.cfg)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = SealRecords(ctx, f.cfg.Config, f.cfg.OpenStore, sealing(false, &listed))
	require.ErrorContains(t, err, "another process has the store open")
	require.NoError(t, c.bridge.Close())
	require.NoError(t, useKey(t, f.cfg, f.keyID), "nothing was changed")
}

// Sealing that was cut off leaves a store that is used by nobody until it was done.
func TestSealingCutOff(t *testing.T) {
	f := newFilled(t)
	var listed []string
	how := sealing(false, &listed)
	ctx, cancel := context.WithCancel(t.Context())
	how.Progress = func(int) { cancel() }
	_, err := SealRecords(ctx, f.cfg.Config, f.cfg.OpenStore, how)
	require.ErrorIs(t, err, context.Canceled)
	err = useKey(t, f.cfg, f.keyID)
	var refused *keyring.SealError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Hint(), keyring.ResealCommand)
	require.False(t, examine(t.Context(), f.cfg).OK())
	sealStore(t, f.cfg, true)
	require.NoError(t, useKey(t, f.cfg, f.keyID))
	require.True(t, examine(t.Context(), f.cfg).OK())
}

// Without the service key nothing can be checked, and nothing is used. Sealing anew makes another one, and says that nobody knows what was
// edited before.
func TestSealKeyGone(t *testing.T) {
	f := newFilled(t)
	sealStore(t, f.cfg, false)
	inToken(t, f.cfg, func(tok *token.Token) {
		objects, err := tok.Objects(t.Context())
		require.NoError(t, err)
		for _, o := range objects {
			if o.Label == keyring.SealKey {
				require.NoError(t, tok.DestroyObject(t.Context(), o.ID))
			}
		}
	})
	var refused *keyring.SealError
	require.ErrorAs(t, useKey(t, f.cfg, f.keyID), &refused)
	require.Contains(t, refused.Error(), "has no object of the service key")
	require.Contains(t, refused.Hint(), keyring.ResealCommand)
	require.Contains(t, fmt.Sprint(examine(t.Context(), f.cfg).Checks), "its seals cannot be checked")
	listed := sealStore(t, f.cfg, true)
	require.Contains(t, listed[0], "NONE OF THE SEALS CAN BE CHECKED")
	require.NoError(t, useKey(t, f.cfg, f.keyID))
	require.True(t, examine(t.Context(), f.cfg).OK())
}

// Sealing anew vouches for the records as they are, and tells which of them were edited.
func TestResealTellsWhatWasEdited(t *testing.T) {
	f := newFilled(t)
	sealStore(t, f.cfg, false)
	edit(t, f.cfg, keystore.AliasRef(testRegion, testAccount, "alias/tokens"), replacing(f.keyID, f.other))
	edited := 0
	for _, line := range sealStore(t, f.cfg, true) {
		if strings.Contains(line, "IT has a seal that does not belong to it") {
			edited++
			require.Contains(t, line, "alias/tokens of key "+f.other)
		}
	}
	require.Equal(t, 1, edited)
	c := openClient(t, f.cfg)
	_, err := generate(t.Context(), c, aws.String("alias/tokens"), []byte("m"))
	require.NoError(t, err)
}
