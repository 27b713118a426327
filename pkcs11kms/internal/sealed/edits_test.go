package sealed_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

// edit is a field that was set to something else, and how to set it back.
type edit struct {
	name string
	undo func()
}

// eachEdit sets each field of a record, and of what is in it, to something else, one at a time.
func eachEdit(v reflect.Value, name string, visit func(edit)) {
	set := func(to any) {
		old := reflect.ValueOf(v.Interface()) // a copy, if v is no pointer
		v.Set(reflect.ValueOf(to).Convert(v.Type()))
		visit(edit{name, func() { v.Set(old) }})
	}
	switch at := v.Interface().(type) {
	case time.Time:
		set(at.Add(time.Second))
		return
	case json.RawMessage:
		set(json.RawMessage(`{"at":"y"}`))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		eachEdit(v.Elem(), name, visit)
		old := reflect.ValueOf(v.Interface())
		v.SetZero()
		visit(edit{name + " removed", func() { v.Set(old) }})
	case reflect.Struct:
		for i := range v.NumField() {
			eachEdit(v.Field(i), name+"."+v.Type().Field(i).Name, visit)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			set(append([]byte(nil), append(v.Bytes()[:len(v.Bytes())-1:len(v.Bytes())-1], v.Bytes()[len(v.Bytes())-1]^1)...))
			return
		}
		for i := range v.Len() {
			eachEdit(v.Index(i), fmt.Sprintf("%s[%d]", name, i), visit)
			old := reflect.ValueOf(v.Interface())
			v.Set(reflect.AppendSlice(v.Slice3(0, i, i), v.Slice(i+1, v.Len()))) // another array: old stays as it is
			visit(edit{fmt.Sprintf("%s[%d] removed", name, i), func() { v.Set(old) }})
		}
	case reflect.String:
		set(v.String() + "x")
		if v.String() != "" {
			set("")
		}
	case reflect.Int:
		set(v.Int() + 1)
	case reflect.Uint32:
		set(v.Uint() + 1)
	case reflect.Bool:
		set(!v.Bool())
	default:
		panic("a field of an unknown kind: " + name)
	}
}

// requireRefused holds that a record is refused whichever way it is read.
func requireRefused(t *testing.T, below keystore.Store, ref keystore.Ref, why string) {
	t.Helper()
	s := open(t, below, sealed.Options{})
	require.NoError(t, s.Open(t.Context()))
	requireRefusedBy(t, s, ref, why)
	found := 0
	require.NoError(t, s.Faults(t.Context(), func(e *sealed.Error) {
		found++
		assert.Equal(t, ref, e.Ref)
	}))
	assert.Equal(t, 1, found)
}

func requireRefusedBy(t *testing.T, s *sealed.Store, ref keystore.Ref, why string) {
	t.Helper()
	_, got := s.Get(t.Context(), ref)
	_, listed := s.List(t.Context(), ref.Kind, ref.Region, ref.Account, "", 100)
	_, all := s.All(t.Context(), keystore.Ref{}, 100)
	for _, err := range []error{got, listed, all} {
		var refused *sealed.Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, ref, refused.Ref)
		require.ErrorContains(t, err, why)
		require.ErrorContains(t, err, ref.ID)
	}
	for _, index := range []keystore.Index{keystore.IndexCKAID, keystore.IndexAliasTarget, keystore.IndexAccessKeyOwner,
		keystore.IndexPrincipalName, keystore.IndexPendingDeletion, keystore.IndexUnfinished, keystore.IndexValidTo, keystore.IndexPolicyName,
		keystore.IndexGrantKey, keystore.IndexGrantGrantee, keystore.IndexGrantRetiring, keystore.IndexGrantSame} {
		recs, err := s.Lookup(t.Context(), index, "", keystore.Ref{}, 100)
		for _, rec := range recs {
			require.NotEqual(t, ref, rec.Ref)
		}
		if err != nil {
			require.True(t, refusedOf(err, ref), "%v", err)
		}
	}
}

func refusedOf(err error, ref keystore.Ref) bool {
	refused, ok := errors.AsType[*sealed.Error](err)
	return ok && refused.Ref == ref
}

const edited = "has a seal that does not belong to it"

// Of every kind of record each field is edited, one at a time, as who can write to the store's file would: all are refused.
func TestEverySingleFieldEditIsRefused(t *testing.T) {
	_, below := newSealed(t)
	edits := 0
	for _, sample := range samples() {
		original := sample.Put(0)
		rec := mustGet(t, below, original.Ref)
		eachEdit(reflect.ValueOf(sample).Elem(), "", func(e edit) {
			defer e.undo()
			forged := sample.Put(0)
			if forged.Ref != original.Ref {
				return // another place: see the moves
			}
			name := fmt.Sprintf("%s%s", original.Ref.Kind, e.name)
			require.NotEqual(t, string(rec.Value), string(forged.Value), name)
			rec = replace(t, below, rec, keystore.Record{Ref: rec.Ref, Value: forged.Value, Seal: rec.Seal}, forged.Index)
			requireRefused(t, below, rec.Ref, edited)
			rec = replace(t, below, rec, keystore.Record{Ref: rec.Ref, Value: original.Value, Seal: rec.Seal}, original.Index)
			edits++
		})
	}
	require.Greater(t, edits, 60)
	t.Logf("%d edits", edits)
	_, err := open(t, below, sealed.Options{}).All(t.Context(), keystore.Ref{}, 100)
	require.NoError(t, err, "as they were")
}

// replace edits a record in the store.
func replace(t *testing.T, below keystore.Store, old, now keystore.Record, index []keystore.Entry) keystore.Record {
	t.Helper()
	now.Version = mustCommit(t, below, keystore.Change{Op: keystore.Put, Ref: now.Ref, Expect: old.Version, Value: now.Value, Seal: now.Seal,
		Index: index})
	return now
}

func TestEverySealThatIsNotTheRecordsIsRefused(t *testing.T) {
	_, below := newSealed(t)
	change := samples()[2].Put(0) // the alias
	rec := mustGet(t, below, change.Ref)
	seal := rec.Seal
	for i := range seal {
		forged := append([]byte(nil), seal...)
		forged[i] ^= 0x40
		rec = replace(t, below, rec, keystore.Record{Ref: rec.Ref, Value: rec.Value, Seal: forged}, change.Index)
		why := edited
		if i == 0 {
			why = "unknown form"
		} else if i < 5 {
			why = "another epoch"
		}
		requireRefused(t, below, rec.Ref, why)
	}
	for why, forged := range map[string][]byte{"has no seal": nil, "unknown form": append(seal, 0)} {
		rec = replace(t, below, rec, keystore.Record{Ref: rec.Ref, Value: rec.Value, Seal: forged}, change.Index)
		requireRefused(t, below, rec.Ref, why)
	}
}

// A record that is right in one place is not right in another: not with another id, account, region or kind, not in the place of another
// one, and not in another store.
func TestMovedRecordsAreRefused(t *testing.T) {
	_, below := newSealed(t)
	alias := samples()[2].Put(0)
	rec := mustGet(t, below, alias.Ref)
	for _, ref := range []keystore.Ref{
		{Kind: keystore.KindAlias, Region: region, Account: account, ID: "alias/other"},
		{Kind: keystore.KindAlias, Region: region, Account: "444455556666", ID: alias.Ref.ID},
		{Kind: keystore.KindAlias, Region: "us-east-2", Account: account, ID: alias.Ref.ID},
		{Kind: keystore.KindCounter, Region: region, Account: account, ID: alias.Ref.ID},
		{Kind: keystore.KindAlias, Region: region + account[:1], Account: account[1:], ID: alias.Ref.ID},
	} {
		version := mustCommit(t, below, keystore.Change{Op: keystore.Put, Ref: ref, Value: rec.Value, Seal: rec.Seal})
		requireRefused(t, below, ref, edited)
		mustCommit(t, below, keystore.Change{Op: keystore.Delete, Ref: ref, Expect: version})
	}

	other := newRoot()
	other.Store = []byte("fedcba9876543210")
	_, elsewhere := newSealed(t)
	seal(t, elsewhere, other)
	foreign := mustGet(t, elsewhere, alias.Ref)
	replace(t, below, rec, foreign, alias.Index)
	requireRefused(t, below, rec.Ref, edited)
	require.NoError(t, sealed.Check(other, keysOf(other), foreign))
	require.ErrorContains(t, sealed.Check(newRoot(), keysOf(other), foreign), edited, "of another store with the same key")
}

func TestSwappedRecordsAreRefused(t *testing.T) {
	_, below := newSealed(t)
	s := open(t, below, sealed.Options{})
	second := keystore.Alias{Region: region, Account: account, Name: "alias/second", Target: "0"}
	mustCommit(t, s, second.Put(0))
	first := samples()[2].Put(0)
	a, b := mustGet(t, below, first.Ref), mustGet(t, below, second.Ref())
	replace(t, below, a, keystore.Record{Ref: a.Ref, Value: b.Value, Seal: b.Seal}, nil)
	replace(t, below, b, keystore.Record{Ref: b.Ref, Value: a.Value, Seal: a.Seal}, nil)
	for _, ref := range []keystore.Ref{first.Ref, second.Ref()} {
		_, err := s.Get(t.Context(), ref)
		require.True(t, refusedOf(err, ref), "%v", err)
	}
}

// What a process has seen to be newer is not read when it is put back, and neither is what it has deleted.
func TestOlderRecordsAreRefused(t *testing.T) {
	s, below := newSealed(t)
	alias := keystore.Alias{Region: region, Account: account, Name: "alias/moved", Target: "old"}
	version := mustCommit(t, s, alias.Put(0))
	old := mustGet(t, below, alias.Ref())
	alias.Target = "new"
	version = mustCommit(t, s, alias.Put(version))

	other := open(t, below, sealed.Options{}) // has read the new one
	mustGet(t, other, alias.Ref())
	now := replace(t, below, keystore.Record{Version: version}, old, alias.Put(0).Index)
	for name, process := range map[string]*sealed.Store{"that wrote": s, "that read": other} {
		_, err := process.Get(t.Context(), alias.Ref())
		require.True(t, refusedOf(err, alias.Ref()), name)
		require.ErrorContains(t, err, "was put back", name)
	}
	recs, err := open(t, below, sealed.Options{}).List(t.Context(), keystore.KindAlias, region, account, "", 10)
	require.NoError(t, err, "who begins now cannot know: the audit log does")
	require.Len(t, recs, 2)

	mustCommit(t, below, keystore.Change{Op: keystore.Delete, Ref: alias.Ref(), Expect: now.Version})
	alias.Target = "newest"
	version = mustCommit(t, s, alias.Put(0))
	newest := mustGet(t, below, alias.Ref())
	mustCommit(t, s, keystore.Change{Op: keystore.Delete, Ref: alias.Ref(), Expect: version})
	replace(t, below, keystore.Record{}, newest, alias.Put(0).Index)
	_, err = s.Get(t.Context(), alias.Ref())
	require.True(t, refusedOf(err, alias.Ref()), "a deleted one that is there again")
}

// An index entry leads to a record that has it by its value, or nobody follows it.
func TestIndexEntriesThatARecordDoesNotHave(t *testing.T) {
	s, below := newSealed(t)
	key := samples()[4].(*keystore.AccessKey)
	rec := mustGet(t, below, key.Put(0).Ref)
	stolen := keystore.Entry{Index: keystore.IndexAccessKeyOwner, Value: keystore.OwnerValue(account, "AROAABCDEFGHIJKLMNOPQ")}
	replace(t, below, rec, rec, []keystore.Entry{stolen})
	_, err := s.Lookup(t.Context(), stolen.Index, stolen.Value, keystore.Ref{}, 10)
	require.True(t, refusedOf(err, rec.Ref), "%v", err)
	require.ErrorContains(t, err, "index entry")
	_, err = s.Get(t.Context(), rec.Ref)
	require.NoError(t, err)
}

// Whatever the store says of its seals, the key must prove.
func TestTheRecordOfSealsIsSealedItself(t *testing.T) {
	below, root := newBelow(t), newRoot()
	root.Previous = &keystore.SealKeyRef{Epoch: 1, Region: region, CKAID: []byte{2}, Spec: "HMAC_512"}
	seal(t, below, root)
	key := keyOf(root)
	original := root.Put(0)
	rec := mustGet(t, below, keystore.SealsRef())
	eachEdit(reflect.ValueOf(&root).Elem(), "", func(e edit) {
		defer e.undo()
		rec = replace(t, below, rec, keystore.Record{Ref: rec.Ref, Value: root.Put(0).Value, Seal: rec.Seal}, nil)
		s, err := sealed.New(t.Context(), below, sealed.Options{})
		require.NoError(t, err)
		require.Error(t, s.Unlock(t.Context(), sealed.Keys{Present: key}), e.name)
		require.Error(t, s.Unlock(t.Context(), keysOf(root)), e.name)
		require.True(t, s.Locked(), e.name)
		rec = replace(t, below, rec, keystore.Record{Ref: rec.Ref, Value: original.Value, Seal: rec.Seal}, nil)
	})
	_, err := open(t, below, sealed.Options{}).Get(t.Context(), keystore.SealsRef())
	require.NoError(t, err)
}

// A store whose record of seals was taken away hands out nothing that has one; who takes the seals away as well is found by the token, see
// package keyring.
func TestNoDowngradeByHalves(t *testing.T) {
	_, below := newSealed(t)
	rec := mustGet(t, below, keystore.SealsRef())
	mustCommit(t, below, keystore.Change{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version})
	s := open(t, below, sealed.Options{})
	_, err := s.Get(t.Context(), samples()[0].Put(0).Ref)
	require.ErrorContains(t, err, "has a seal, and the store tells of none")
	require.False(t, strings.Contains(err.Error(), "tokens"), "nothing of the value is told")
}
