package test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/uuid"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/halfmade"
)

// crashing prepares a create-key that kills itself at a step.
func (d *stateDir) crashing(t *testing.T, step string, args ...string) *exec.Cmd {
	t.Helper()
	other := *d
	other.binary = executable(t, crashingBinary)
	if len(args) == 0 {
		args = createArgs
	}
	cmd := other.command(args...)
	cmd.Env = append(cmd.Env, envCrashAt+"="+step)
	return cmd
}

// crash runs create-key, of an HMAC key unless args say otherwise, up to a step, where it dies.
func (d *stateDir) crash(t *testing.T, step string, args ...string) {
	t.Helper()
	r, err := run(d.crashing(t, step, args...))
	require.NoError(t, err)
	require.True(t, r.killed, "create-key did not die at %s: it ended with %d: %s", step, r.code, r.stderr)
	require.Empty(t, r.stdout, "it acknowledged a key before it was done")
}

// assertWhole holds that every record is finished and has its object, and that the token has no objects besides, but for husks: a process
// that is killed may be making the pair that seals the audit log.
func (d *stateDir) assertWhole(t *testing.T) {
	t.Helper()
	d.assertRecorded(t, slices.DeleteFunc(raw(t, d.token, rawJob{}).Objects, rawObject.husk))
}

// assertRecorded holds that every record is finished, and that the objects are those that the records name.
func (d *stateDir) assertRecorded(t *testing.T, objects []rawObject) {
	t.Helper()
	keys := d.allRecords(t)
	assert.Empty(t, unfinished(keys))
	want, got := []string{}, []string{}
	for _, k := range keys {
		want = append(want, k.CKAID.String())
	}
	for _, o := range objects {
		got = append(got, o.ID)
	}
	assert.ElementsMatch(t, want, got, "CKA_IDs of the objects in the token")
}

// assertUsable holds that a key signs and verifies.
func (d *stateDir) assertUsable(t *testing.T, keyID string) {
	t.Helper()
	message := []byte("still works")
	d.verifyMAC(t, keyID, message, d.generateMAC(t, keyID, message))
}

// TestKilledAtEachStep: whatever step create-key dies at, what it leaves is what the step promises, and the next command,
// whichever it is, leaves no half-made key.
func TestKilledAtEachStep(t *testing.T) {
	steps := []struct {
		name   string
		record keystore.KeyState // what is left
		object bool
		next   []string
	}{
		{"record-written", keystore.Creating, false, []string{"list-keys"}},
		{"object-made", keystore.Creating, true, []string{"list-keys"}},
		{"object-made", keystore.Creating, true, createArgs},
		{"flipped", keystore.Enabled, true, []string{"list-keys"}},
	}
	for _, step := range steps {
		t.Run(step.name+"/"+step.next[0], func(t *testing.T) {
			d := newStateDir(t)
			before := d.createKey(t)
			d.crash(t, step.name)
			keys := d.records(t)
			require.Len(t, keys, 2)
			left := keys[slices.IndexFunc(keys, func(k keystore.Key) bool { return k.ID != before })]
			assert.Equal(t, step.record, left.State)
			_, made := raw(t, d.token, rawJob{}).find(left.CKAID.String())
			assert.Equal(t, step.object, made, "there is an object")

			d.must(t, nil, step.next...)
			d.assertWhole(t)
			d.assertUsable(t, before)
			if step.record.Unfinished() {
				assert.NotContains(t, ids(d.records(t)), left.ID)
			} else {
				assert.Contains(t, d.listKeys(t), left.ID)
				d.assertUsable(t, left.ID)
			}
			assert.Empty(t, d.doctor(t).Unknown)
		})
	}
}

// TestManyJanitorsAtOnce: what the dead have left is removed once, and nobody fails over it.
func TestManyJanitorsAtOnce(t *testing.T) {
	long(t)
	d := newStateDir(t)
	cmds := make([]*exec.Cmd, 8)
	var dying errgroup.Group
	for i := range cmds {
		cmd := d.crashing(t, "object-made")
		dying.Go(func() error {
			r, err := run(cmd)
			if err == nil && !r.killed {
				err = errors.New("it did not die: " + string(r.stderr))
			}
			return err
		})
		cmds[i] = d.command("list-keys")
	}
	require.NoError(t, dying.Wait())
	require.NotEmpty(t, unfinished(d.records(t)))
	var group errgroup.Group
	for _, cmd := range cmds {
		group.Go(func() error { return answered(cmd, nil) })
	}
	require.NoError(t, group.Wait())
	assert.Empty(t, d.records(t))
	d.assertWhole(t)
}

// TestJanitorKnowsTheLivingFromTheDead: this process holds the store open as an instance that works on one key that it is
// making and one that it is deleting. Nobody touches them until it has ended.
func TestJanitorKnowsTheLivingFromTheDead(t *testing.T) {
	d := newUnsealed(t)
	cfg := d.config(t)
	store, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	var job rawJob
	for _, state := range []keystore.KeyState{keystore.Creating, keystore.Deleting} {
		id := uuid.New()
		k := keystore.Key{Region: cfg.DefaultRegion, Account: cfg.AccountID, ID: uuid.NewString(), State: state,
			Spec: string(types.KeySpecHmac256), Usage: string(types.KeyUsageTypeGenerateVerifyMac), Origin: string(types.OriginTypeAwsKms),
			Created: time.Now().UTC().Truncate(time.Millisecond), CKAID: id[:], Instance: store.Instance()}
		_, err := store.Commit(t.Context(), k.Put(0))
		require.NoError(t, err)
		job.Make = append(job.Make, rawObject{Class: pkcs11.CKO_SECRET_KEY, Label: k.ID, ID: k.CKAID.String()})
	}
	before := raw(t, d.token, job).Objects
	require.Len(t, before, 3, "and the region's binding key")

	assert.Empty(t, d.listKeys(t), "they are no keys of the API")
	kept := d.createKey(t)
	assert.Len(t, unfinished(d.records(t)), 2)
	assert.Subset(t, raw(t, d.token, rawJob{}).Objects, before)

	require.NoError(t, store.Close())
	d.assertUsable(t, kept)
	assert.Equal(t, []string{kept}, ids(d.records(t)))
	d.assertWhole(t)
}

const killings = 50

// TestKilledAtRandomMoments kills create-key at moments that are spread over the time one takes, while another process
// works on the same state directory and never sees a failure.
func TestKilledAtRandomMoments(t *testing.T) {
	long(t)
	d := newStateDir(t)
	worker := start(t, d.token.Env(), "worker", libraryJob{StateDir: d.path, Keys: 40})
	var first madeKey
	worker.next(&first)

	acknowledged, sum := d.killings(t)
	worker.end()
	made := []madeKey{first}
	for k := (madeKey{}); worker.read(&k); k = (madeKey{}) {
		made = append(made, k)
	}
	worker.finish()

	_, err := halfmade.Leave(d.token.ConfigFile, d.token.Serial, pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET)
	require.NoError(t, err, "the kills leave one now and then; here there is one for sure")
	listed := d.listKeys(t)
	objects := raw(t, d.token, rawJob{}).Objects
	complete := slices.DeleteFunc(slices.Clone(objects), rawObject.husk)
	d.assertRecorded(t, complete)
	husks := len(objects) - len(complete)
	t.Logf("%+v; %d husks; the worker made %d keys", sum, husks, len(made))

	all := slices.Clone(acknowledged)
	for _, k := range made {
		all = append(all, k.KeyID)
	}
	assert.LessOrEqual(t, d.assertAudited(t, all), 2, "chains: of the worker, and of the commands, of which one ran at a time")

	c := d.client(t)
	destroyed, err := doctor.DestroyHalfMade(t.Context(), c, doctor.HalfMadeOptions{Apart: time.Millisecond})
	require.NoError(t, err)
	assert.NotEmpty(t, destroyed)
	assert.LessOrEqual(t, len(destroyed), husks)
	for _, unknown := range d.doctor(t).Unknown {
		assert.Empty(t, unknown.CKAID, "doctor knows an object that no record names and that is no husk")
	}

	assert.Subset(t, listed, acknowledged)
	for _, k := range made {
		require.Contains(t, listed, k.KeyID)
		require.NoError(t, useAgain(t.Context(), c, k))
	}
	for _, id := range listed { // those too that were made but never acknowledged
		k, err := sign(t.Context(), c, id)
		require.NoError(t, err)
		require.NoError(t, useAgain(t.Context(), c, k))
	}
}

// husk tells whether an object is what SoftHSM leaves when it is killed in C_GenerateKey before it has stored CKA_ID: a
// file with the defaults of some attributes. It holds no key, and nothing in it tells whose it is.
func (o rawObject) husk() bool {
	return o.ID == "" && o.Label == "" && o.ValueLen == 0 && o.Fingerprint == ""
}

// tally says what the killings hit.
type tally struct {
	Seed     uint64
	Typical  time.Duration // of a create-key that is left alone
	Killed   int
	HalfMade int // keys that were seen half made
	Tardy    int // acknowledged before the kill came
	Emptied  int // hit SoftHSM where it had emptied the token's file
}

// killings runs create-key until enough have been killed, and returns the keys that were acknowledged.
func (d *stateDir) killings(t *testing.T) (acknowledged []string, sum tally) {
	t.Helper()
	sum.Seed = rand.Uint64()
	random := rand.New(rand.NewPCG(sum.Seed, 0))
	for range 3 {
		began := time.Now()
		acknowledged = append(acknowledged, d.createKey(t))
		sum.Typical = max(sum.Typical, time.Since(began))
	}
	halfMade := map[string]bool{}
	for attempt := 0; sum.Killed < killings; attempt++ {
		require.Less(t, attempt, 20*killings, "create-key is always faster than the kill: %+v", sum)
		// One moment in each of equal parts of the time, so that none is left out by chance.
		part := float64(attempt%killings) + random.Float64()
		r, err := runFor(d.command(createArgs...), time.Duration(part/killings*float64(sum.Typical)))
		require.NoError(t, err)
		if r.killed {
			sum.Killed++
			// A state directory with a SoftHSM of its own does this at each start; the token of a test is in no state directory.
			healed, err := softhsm.Setup(filepath.Dir(d.token.ConfigFile))
			require.NoError(t, err)
			sum.Emptied += len(healed.Restored)
			for _, id := range d.left(t) {
				halfMade[id] = true
			}
		} else {
			require.Zero(t, r.code, "%s", r.stderr)
		}
		var made createdAnswer
		if json.Unmarshal(r.stdout, &made) == nil {
			acknowledged = append(acknowledged, made.KeyMetadata.KeyId)
			sum.Tardy++
		}
	}
	sum.HalfMade = len(halfMade)
	return acknowledged, sum
}

// left returns the half-made keys of instances that are dead.
func (d *stateDir) left(t *testing.T) (dead []string) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), d.config(t).StorePath, sqlite.Options{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, store.Close()) }()
	for _, k := range unfinished(d.records(t)) {
		release, err := store.TakeOver(t.Context(), k.Instance)
		if errors.Is(err, keystore.ErrAlive) {
			continue
		}
		require.NoError(t, err)
		release(false)
		dead = append(dead, k.ID)
	}
	return dead
}
