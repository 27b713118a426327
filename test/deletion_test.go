package test

import (
	"encoding/json"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// destroyerJob says by which clock a long-lived process works.
type destroyerJob struct {
	StateDir string
	Ahead    time.Duration // of the machine's clock
	Settled  bool          // the clock tells from its second reading on that the process has run for an hour
}

func (j destroyerJob) clock() func() time.Time {
	var read atomic.Bool
	return func() time.Time {
		now := time.Now().Add(j.Ahead)
		if j.Settled && read.Swap(true) {
			now = now.Add(time.Hour)
		}
		return now
	}
}

// playDestroyer opens the library as a server does, and closes it, which waits for the janitor's first pass.
func playDestroyer(line []byte, _ io.Reader, _ *json.Encoder) error {
	var job destroyerJob
	if err := json.Unmarshal(line, &job); err != nil {
		return err
	}
	c, err := openAt(job.StateDir, job.clock())
	if err != nil {
		return err
	}
	return c.Close()
}

func (d *stateDir) destroyer(t *testing.T, job destroyerJob) *process {
	t.Helper()
	job.StateDir = d.path
	return start(t, d.token.Env(), "destroyer", job)
}

// crashingDestroyer runs a destroyer up to a step of the deletion, where it dies.
func (d *stateDir) crashingDestroyer(t *testing.T, step string, ahead time.Duration) {
	t.Helper()
	env := append(d.token.Env(), envCrashAt+"="+step)
	p := startOf(t, executable(t, crashingRoles), env, "destroyer", destroyerJob{StateDir: d.path, Ahead: ahead, Settled: true})
	require.True(t, p.killed(), "it did not die at %s: %s", step, p.stderr)
}

const days = 24 * time.Hour

// condemned is a state directory with three keys: one whose deletion is due in seven days, one in thirty, and one in use;
// and another application's object.
type condemned struct {
	*stateDir
	gone, later, kept string
	before            []rawObject
}

func newCondemned(t *testing.T) condemned {
	t.Helper()
	d := condemned{stateDir: newStateDir(t)}
	for _, id := range []*string{&d.gone, &d.later, &d.kept} {
		*id = d.createKey(t)
	}
	for alias, key := range map[string]string{"alias/gone-1": d.gone, "alias/gone-2": d.gone, "alias/kept": d.kept} {
		d.must(t, nil, "create-alias", "--alias-name", alias, "--target-key-id", key)
	}
	d.must(t, nil, "schedule-key-deletion", "--key-id", d.gone, "--pending-window-in-days", "7")
	d.must(t, nil, "schedule-key-deletion", "--key-id", d.later)
	foreign := rawObject{Class: pkcs11.CKO_SECRET_KEY, Label: "theirs", ID: "0102"}
	d.before = raw(t, d.token, rawJob{Make: []rawObject{foreign}}).Objects
	require.Len(t, d.before, 5, "and the region's binding key")
	return d
}

// aliases are the names that the binary lists.
func (d condemned) aliases(t *testing.T) (names []string) {
	t.Helper()
	var list struct{ Aliases []struct{ AliasName string } }
	d.must(t, &list, "list-aliases")
	for _, a := range list.Aliases {
		names = append(names, a.AliasName)
	}
	return names
}

// record returns the record of a key, if there is one.
func (d condemned) record(t *testing.T, id string) (keystore.Key, bool) {
	t.Helper()
	keys := d.records(t)
	i := slices.IndexFunc(keys, func(k keystore.Key) bool { return k.ID == id })
	if i < 0 {
		return keystore.Key{}, false
	}
	return keys[i], true
}

// assertGone holds that the key and all that belongs to it is gone, and nothing else.
func (d condemned) assertGone(t *testing.T, ckaID string) {
	t.Helper()
	assert.ElementsMatch(t, []string{d.later, d.kept}, ids(d.records(t)))
	d.assertJudged(t, nil)
	rest := slices.DeleteFunc(slices.Clone(d.before), func(o rawObject) bool { return o.ID == ckaID })
	// A process that is killed may be making the pair that seals the audit log.
	left := slices.DeleteFunc(raw(t, d.token, rawJob{}).Objects, rawObject.husk)
	assert.ElementsMatch(t, rest, left, "objects in the token")
	listed, err := opensc(t, d.token, "--list-objects").CombinedOutput()
	require.NoError(t, err, "%s", listed)
	assert.NotContains(t, string(listed), ckaID)
	for _, o := range rest {
		assert.Contains(t, string(listed), o.ID)
	}
	assert.Equal(t, []string{"alias/kept"}, d.aliases(t))
	refused, err := run(d.command("describe-key", "--key-id", d.gone))
	require.NoError(t, err)
	assert.Contains(t, string(refused.stderr), "NotFoundException")
	d.assertUsable(t, "alias/kept")
	d.must(t, nil, "cancel-key-deletion", "--key-id", d.later)
	d.must(t, nil, "enable-key", "--key-id", d.later)
	d.assertUsable(t, d.later)
}

// TestDeletionKilledAtEachStep: whatever step of a deletion a process dies at, another one finishes it: one that does a
// single thing as well as one that stays.
func TestDeletionKilledAtEachStep(t *testing.T) {
	long(t)
	steps := []struct {
		name   string
		state  keystore.KeyState // of the record that is left; empty: none
		object bool              // is left
	}{
		{"deleting-begins", keystore.PendingDeletion, true},
		{"deleting-written", keystore.Deleting, true},
		{"object-destroyed", keystore.Deleting, false},
		{"record-removed", "", false},
	}
	for _, step := range steps {
		for _, next := range []string{"list-keys", "destroyer"} {
			if next == "list-keys" && step.state == keystore.PendingDeletion {
				continue // it has not begun, and such a process begins none
			}
			t.Run(step.name+"/"+next, func(t *testing.T) {
				d := newCondemned(t)
				whole, _ := d.record(t, d.gone)
				d.crashingDestroyer(t, step.name, 8*days)
				left, found := d.record(t, d.gone)
				assert.Equal(t, step.state, left.State)
				assert.Equal(t, step.state != "", found)
				_, object := raw(t, d.token, rawJob{}).find(whole.CKAID.String())
				assert.Equal(t, step.object, object, "there is an object")
				if next == "list-keys" {
					assert.ElementsMatch(t, []string{d.later, d.kept}, d.listKeys(t))
				} else {
					d.destroyer(t, destroyerJob{Ahead: 8 * days, Settled: true}).finish()
				}
				d.assertGone(t, whole.CKAID.String())
			})
		}
	}
}

// TestClockAheadDestroysNothing: a process that starts with a clock that is a year ahead leaves every key; one that has
// been there for an hour, by the same clock, destroys what is due.
func TestClockAheadDestroysNothing(t *testing.T) {
	d := newCondemned(t)
	d.destroyer(t, destroyerJob{Ahead: 365 * days}).finish()
	assert.Len(t, d.records(t), 3)
	assert.ElementsMatch(t, d.before, raw(t, d.token, rawJob{}).Objects)
	assert.Len(t, d.aliases(t), 3)
	d.must(t, nil, "cancel-key-deletion", "--key-id", d.later)
	d.destroyer(t, destroyerJob{Ahead: 365 * days, Settled: true}).finish()
	assert.ElementsMatch(t, []string{d.later, d.kept}, ids(d.records(t)))
}
