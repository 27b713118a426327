package keyring

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

var errDisk = errors.New("the disk is full")

// unread is a store in which nothing can be looked up.
type unread struct {
	keystore.Store
	before func()
}

func (u *unread) Lookup(context.Context, keystore.Index, string, keystore.Ref, int) ([]keystore.Record, error) {
	u.before()
	return nil, errDisk
}

// What keeps the passes of a long-lived process from their work stands in its log, since nobody waits for them. It is settled when the
// first pass is over, whatever came of it.
func TestPassesOfALongLivedProcessAreTold(t *testing.T) {
	cfg, log, store := newConfig(t), &kept{}, &unread{}
	store.Store, cfg.Store, cfg.Log = cfg.Store, store, slog.New(log)
	now := time.Now()
	cfg.Now = func() time.Time { return now }
	r := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	now = now.Add(10 * time.Minute)
	looks := 0
	store.before = func() {
		looks++
		select {
		case <-r.Settled():
			t.Error("it is settled before its first pass is over")
		default:
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	<-r.Settled()
	stop()
	<-done
	require.Equal(t, 3, looks)
	require.Equal(t, []string{"janitor cannot read the store", "keys whose deletion date has come are not destroyed",
		"imported key material that has expired is not taken away"}, log.messages)
	store.before = func() {}
	_, err := r.Tidy(t.Context())
	require.ErrorIs(t, err, errDisk, "for those who ask for a pass")
}

// leftHalfMade writes the record of a key that this process has left half made, and makes its object under a label.
func leftHalfMade(t *testing.T, r *Ring, id, label string) keystore.Key {
	t.Helper()
	in := r.Region(bindingRegion)
	record := in.NewRecord(r.cfg.Account, id)
	record.Spec, record.Usage, record.State, record.Instance = "HMAC_256", "GENERATE_VERIFY_MAC", keystore.Creating, r.cfg.Store.Instance()
	_, err := r.cfg.Store.Commit(t.Context(), record.Put(0))
	require.NoError(t, err)
	_, err = in.Token.GenerateHMACKey(t.Context(), token.SHA256, record.CKAID, label)
	require.NoError(t, err)
	return record
}

// Before the object of a key is destroyed the audit log is asked, and a refusal keeps both. That it does not take what came of it undoes
// nothing. Each stands in the log, and so does an object that is left alone.
func TestRemovalsAreTold(t *testing.T) {
	cfg, _ := bindingConfig(t)
	log := &kept{}
	cfg.Log = slog.New(log)
	refuse, asked := true, 0
	cfg.Removing = func(ctx context.Context, _ keystore.Key) (context.Context, func(error) error, error) {
		asked++
		if refuse {
			return nil, nil, errDisk
		}
		return ctx, func(error) error { return errDisk }, nil
	}
	r := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	record := leftHalfMade(t, r, "key", "key")
	finished, err := r.Tidy(t.Context())
	require.ErrorIs(t, err, errDisk)
	require.Empty(t, finished)
	_, err = r.Region(bindingRegion).Token.Describe(t.Context(), record.CKAID)
	require.NoError(t, err)
	require.Contains(t, log.messages, "janitor cannot remove a key that was left half made")

	refuse, log.messages = false, nil
	foreign := leftHalfMade(t, r, "foreign", "somebody else's")
	finished, err = r.Tidy(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"key", "foreign"}, finished)
	require.Equal(t, 3, asked)
	_, err = r.Region(bindingRegion).Token.Describe(t.Context(), record.CKAID)
	require.ErrorIs(t, err, token.ErrKeyMissing)
	_, err = r.Region(bindingRegion).Token.Describe(t.Context(), foreign.CKAID)
	require.NoError(t, err)
	untaken, removed := "the audit log did not take what became of a key that was to be removed",
		"removed a key that was half made or half deleted"
	require.ElementsMatch(t, []string{untaken, untaken, removed, removed,
		"another application's object has the CKA_ID of a key that is removed: left alone"}, log.messages)
}

// While one pass removes a key, another one of the process leaves it alone.
func TestOnePassRemovesAKey(t *testing.T) {
	cfg, store := bindingConfig(t)
	now := time.Now()
	cfg.Now = func() time.Time { return now }
	r := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	now = now.Add(time.Hour)
	beside := 0
	store.before = func(changes []keystore.Change) error {
		if !slices.ContainsFunc(changes, func(c keystore.Change) bool { return c.Op == keystore.Delete && c.Ref.Kind == keystore.KindKey }) {
			return nil
		}
		beside++
		if beside > 2 {
			return errDisk // two at once would go on for ever
		}
		finished, err := r.Tidy(t.Context())
		assert.NoError(t, err)
		assert.Empty(t, finished)
		return nil
	}
	leftHalfMade(t, r, "half", "half")
	finished, err := r.Tidy(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"half"}, finished)

	due, err := r.Make(t.Context(), r.Region(bindingRegion), MACSpecOf(types.KeySpecHmac256),
		r.Region(bindingRegion).NewRecord(cfg.Account, "due"), nil)
	require.NoError(t, err)
	require.Empty(t, due.Record.Instance, "nobody works on it any more")
	due.Record.State, due.Record.DeletionDate = keystore.PendingDeletion, now
	_, err = store.Commit(t.Context(), due.Record.Put(due.Version))
	require.NoError(t, err)
	require.NoError(t, r.DestroyDue(t.Context()), "at the very moment of its date")
	require.Equal(t, 2, beside)
	_, err = store.Get(t.Context(), due.Record.Ref())
	require.ErrorIs(t, err, keystore.ErrNotFound)
}

// A key that could not be made, and cannot be removed just now, is named in the log, and the janitor removes it later.
func TestKeyThatIsLeftToTheJanitorIsTold(t *testing.T) {
	cfg, store := bindingConfig(t)
	log := &kept{}
	cfg.Log = slog.New(log)
	r := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	in, commits := r.Region(bindingRegion), 0
	store.before = func([]keystore.Change) error {
		if commits++; commits > 1 {
			return errDisk
		}
		return nil
	}
	record := in.NewRecord(cfg.Account, "left")
	_, err := r.Make(t.Context(), in, MACSpecOf(types.KeySpecHmac256), record, nil)
	require.ErrorIs(t, err, errDisk)
	require.Contains(t, log.messages, "a key that could not be created is left to the janitor")
	_, err = in.Token.Describe(t.Context(), record.CKAID)
	require.NoError(t, err)
	store.before = nil
	finished, err := r.Tidy(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"left"}, finished)
	_, err = in.Token.Describe(t.Context(), record.CKAID)
	require.ErrorIs(t, err, token.ErrKeyMissing)
}
