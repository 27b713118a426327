package lastuse_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/lastuse"
)

var used = lastuse.Key{Region: region, Account: account, ID: "1234abcd-12ab-34cd-56ef-1234567890ab"}

// makeKey puts the record of a key into the store.
func (p *process) makeKey(t *testing.T, k lastuse.Key, state keystore.KeyState) uint64 {
	t.Helper()
	record := keystore.Key{Region: k.Region, Account: k.Account, ID: k.ID, State: state, CKAID: []byte(k.ID), Created: began}
	if state.Unfinished() {
		record.Instance = "i"
	}
	version, err := p.store.Store.Commit(t.Context(), record.Put(p.versionOf(t, k)))
	require.NoError(t, err)
	return version
}

func (p *process) versionOf(t *testing.T, k lastuse.Key) uint64 {
	rec, err := p.store.Store.Get(t.Context(), keystore.KeyRef(k.Region, k.Account, k.ID))
	if errors.Is(err, keystore.ErrNotFound) {
		return 0
	}
	require.NoError(t, err)
	return rec.Version
}

// useKey notes a use, and returns the id of its record in the audit log.
func (p *process) useKey(k lastuse.Key, operation string) string {
	event := uuid.New()
	p.keys.Note(k, lastuse.KeyUse{Operation: operation, Event: event, RequestID: "of " + event.String()})
	return event.String()
}

func (p *process) writeKeys(t *testing.T) {
	t.Helper()
	require.NoError(t, p.keys.Write(t.Context(), false))
}

// stored is the use that the store has.
func (p *process) stored(t *testing.T, k lastuse.Key) (use keystore.KeyUse, ok bool) {
	t.Helper()
	rec, err := p.store.Store.Get(t.Context(), keystore.KeyUseRef(k.Region, k.Account, k.ID))
	if errors.Is(err, keystore.ErrNotFound) {
		return use, false
	}
	require.NoError(t, err)
	use, err = keystore.DecodeKeyUse(rec)
	require.NoError(t, err)
	return use, true
}

// TestTheLastUseOfAKey: what was noted is known at once here, and elsewhere when it is written: the last one, with all that belongs to it.
func TestTheLastUseOfAKey(t *testing.T) {
	path := newPath(t)
	p, other := newProcess(t, path), newProcess(t, path)
	p.makeKey(t, used, keystore.Enabled)
	_, ok, err := p.keys.Read(t.Context(), used)
	require.NoError(t, err)
	require.False(t, ok)

	p.useKey(used, "VerifyMac")
	p.now = p.now.Add(time.Second)
	p.useKey(used, "VerifyMac")
	event := p.useKey(used, "GenerateMac") // of the same second
	want := keystore.KeyUse{Region: region, Account: account, KeyID: used.ID, Operation: "GenerateMac", At: began.Add(time.Second),
		Event: event, Request: "of " + event}
	last, ok, err := p.keys.Read(t.Context(), used)
	require.NoError(t, err)
	require.True(t, ok)
	assert.Equal(t, want, last)
	_, ok, err = other.keys.Read(t.Context(), used)
	require.NoError(t, err)
	assert.False(t, ok)
	p.writeKeys(t)
	last, ok, err = other.keys.Read(t.Context(), used)
	require.NoError(t, err)
	require.True(t, ok)
	assert.Equal(t, want, last)

	// Of two processes the later use counts, whoever writes last.
	other.now = began.Add(time.Minute)
	later := other.useKey(used, "Sign")
	p.now = began.Add(30 * time.Second)
	p.useKey(used, "Verify")
	last, _, err = p.keys.Read(t.Context(), used)
	require.NoError(t, err)
	assert.Equal(t, "Verify", last.Operation)
	other.writeKeys(t)
	p.writeKeys(t)
	for _, process := range []*process{p, other} {
		last, _, err = process.keys.Read(t.Context(), used)
		require.NoError(t, err)
		assert.Equal(t, [2]any{later, began.Add(time.Minute)}, [2]any{last.Event, last.At})
	}
}

// TestUsesOfKeysAreWrittenInBatches: one commit for 32 keys of which there is no record yet, and for 64 of which there is.
func TestUsesOfKeysAreWrittenInBatches(t *testing.T) {
	p := newProcess(t, newPath(t))
	use := func() {
		p.now = p.now.Add(time.Minute)
		for i := range 65 {
			p.useKey(lastuse.Key{Region: region, Account: account, ID: fmt.Sprintf("key-%02d", i)}, "GenerateMac")
		}
	}
	for i := range 65 {
		p.makeKey(t, lastuse.Key{Region: region, Account: account, ID: fmt.Sprintf("key-%02d", i)}, keystore.Enabled)
	}
	use()
	p.writeKeys(t)
	assert.Equal(t, 1+3, p.store.count(), "once it is noted since when uses are")
	use()
	p.writeKeys(t)
	assert.Equal(t, 4+2, p.store.count())
	p.writeKeys(t)
	assert.Equal(t, 6, p.store.count(), "nothing new")
}

// TestWhatIsWrittenTakesNoMemory: nothing is kept of a key that is not used, or is not there, any more.
func TestWhatIsWrittenTakesNoMemory(t *testing.T) {
	p := newProcess(t, newPath(t))
	p.makeKey(t, used, keystore.Enabled)
	gone := lastuse.Key{Region: region, Account: account, ID: "gone"}
	p.useKey(used, "GenerateMac")
	p.useKey(gone, "GenerateMac")
	p.writeKeys(t)
	at, _ := p.keys.Last(gone)
	assert.Zero(t, at)
	p.writeKeys(t)
	at, _ = p.keys.Last(used)
	assert.Zero(t, at)
	event := p.useKey(used, "Sign") // in the same second
	p.writeKeys(t)
	last, ok, err := p.keys.Read(t.Context(), used)
	require.NoError(t, err)
	require.True(t, ok)
	assert.Equal(t, event, last.Event)
}

// TestNoUseOfAKeyThatGoes: a key that is being destroyed, or is not there, gets no record, also when that happens between look and commit.
func TestNoUseOfAKeyThatGoes(t *testing.T) {
	p := newProcess(t, newPath(t))
	p.useKey(used, "GenerateMac")
	p.writeKeys(t)
	_, ok := p.stored(t, used)
	assert.False(t, ok)

	p.makeKey(t, used, keystore.PendingDeletion) // used just before
	p.useKey(used, "GenerateMac")
	p.store.before = func() error {
		if p.store.count() == 1 {
			return nil // since when uses are noted
		}
		p.store.before = nil
		p.makeKey(t, used, keystore.Deleting)
		return nil
	}
	p.writeKeys(t)
	require.Nil(t, p.store.before)
	_, ok = p.stored(t, used)
	assert.False(t, ok)
}

// TestSinceWhenUsesAreNoted: in a store that is older, since the process began that noted the first; a younger key is noted from its
// beginning.
func TestSinceWhenUsesAreNoted(t *testing.T) {
	path := newPath(t)
	p := newProcess(t, path)
	p.makeKey(t, used, keystore.Enabled)
	since := func(p *process, created time.Time) time.Time {
		at, err := p.keys.Since(t.Context(), used, created)
		require.NoError(t, err)
		return at
	}
	assert.Equal(t, began, since(p, began.Add(-time.Hour)))
	assert.Equal(t, began.Add(time.Hour), since(p, began.Add(time.Hour)))
	p.now = began.Add(time.Minute)
	p.useKey(used, "GenerateMac")
	p.writeKeys(t)
	later := newProcess(t, path)
	assert.Equal(t, began, since(later, began.Add(-time.Hour)))
}

// TestUsesAtOnce: many goroutines use a few keys while they are written.
func TestUsesAtOnce(t *testing.T) {
	p := newProcess(t, newPath(t))
	keys := []lastuse.Key{used, {Region: region, Account: account, ID: "other"}}
	for _, k := range keys {
		p.makeKey(t, k, keystore.Enabled)
	}
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			for i := range 500 {
				p.useKey(keys[i%2], "GenerateMac")
			}
		})
	}
	for range 20 {
		p.writeKeys(t)
	}
	users.Wait()
	p.writeKeys(t)
	for _, k := range keys {
		use, ok := p.stored(t, k)
		require.True(t, ok)
		assert.Equal(t, "of "+use.Event, use.Request, "what belongs together")
	}
}
