package test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/test/contention"
)

// contenderJob is what one of several processes does to keys that all of them change.
type contenderJob struct {
	StateDir     string
	Keys         []string
	Place, Users int
	Changes      int
	Seed         uint64
}

// playContender makes changes until it has made as many as it must and its input ends. It answers once when half of them
// are made, and in the end with its claim.
func playContender(line []byte, rest io.Reader, answer *json.Encoder) (err error) {
	var job contenderJob
	if err := json.Unmarshal(line, &job); err != nil {
		return err
	}
	c, err := openAt(job.StateDir, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	fighting := untilEnd(rest)
	u := contention.NewUser(c, job.Keys, job.Place, job.Users, job.Seed)
	always := context.Background()
	if err := u.Work(always, job.Changes/2); err != nil {
		return err
	}
	if err := answer.Encode("half"); err != nil {
		return err
	}
	if err := errors.Join(u.Work(always, job.Changes-job.Changes/2), u.Work(fighting, math.MaxInt)); err != nil {
		return err
	}
	return answer.Encode(u.Claim)
}

// TestProcessesFightForKeys: four processes make at least 500 changes each of the same ten keys, and a fifth one destroys
// two of the keys meanwhile.
func TestProcessesFightForKeys(t *testing.T) {
	long(t)
	const changes = 500
	d := newStateDir(t)
	c := d.client(t)
	var keys []string
	for range 10 {
		out, err := c.CreateKey(t.Context(), createInput(types.KeySpecHmac256))
		require.NoError(t, err)
		keys = append(keys, *out.KeyMetadata.KeyId)
	}
	before := raw(t, d.token, rawJob{})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	fighters := make([]*process, 4)
	for i := range fighters {
		fighters[i] = start(t, d.token.Env(), "contender", contenderJob{StateDir: d.path, Keys: keys, Place: i,
			Users: len(fighters), Changes: changes, Seed: seed})
	}
	for _, f := range fighters {
		var half string
		f.next(&half)
	}
	doomed := keys[:2]
	for _, id := range doomed {
		d.destroyAmong(t, c, id)
	}
	claims := make([]contention.Claim, len(fighters))
	for i, f := range fighters {
		f.end()
		f.next(&claims[i])
		f.finish()
		made := 0
		for _, n := range claims[i].Made {
			made += n
		}
		assert.GreaterOrEqual(t, made, changes)
		t.Logf("user %d: %v, %d refused", i, claims[i].Made, claims[i].Refused)
	}
	d.assertJudged(t, keys, claims...)
	assert.ElementsMatch(t, keys[2:], ids(d.records(t)))
	d.assertWhole(t)
	for _, o := range raw(t, d.token, rawJob{}).Objects {
		was, ok := before.find(o.ID)
		assert.True(t, ok)
		assert.Equal(t, was, o, "an object that nobody destroyed")
	}
	d.doctor(t)
}

// destroyAmong has a key destroyed that others schedule for a later date and take back again and again. It is scheduled as often, also
// while it is about to be destroyed: else it would hardly ever be due just then.
func (d *stateDir) destroyAmong(t *testing.T, c *pkcs11kms.Client, id string) {
	t.Helper()
	schedule := func() error {
		_, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &id, PendingWindowInDays: aws.Int32(7)})
		return err
	}
	gone := func() bool {
		err := schedule()
		if _, ok := errors.AsType[*types.NotFoundException](err); ok {
			return true
		}
		if _, ok := errors.AsType[*types.KMSInvalidStateException](err); ok {
			return false // somebody else has scheduled it; somebody will take that back
		}
		require.NoError(t, err)
		ended := make(chan struct{})
		var scheduling sync.WaitGroup
		defer scheduling.Wait()
		defer close(ended)
		scheduling.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
					_ = schedule() // which others may have done, or is refused since the key is gone
				}
			}
		})
		d.destroyer(t, destroyerJob{Ahead: 8 * 24 * time.Hour, Settled: true}).finish()
		return false
	}
	for end := time.Now().Add(patience); !gone(); time.Sleep(time.Millisecond) { // not Eventually, which would leave a destroyer behind
		require.True(t, time.Now().Before(end), "the key is not gone")
	}
}

// assertJudged holds the store to what users of its keys were told.
func (d *stateDir) assertJudged(t *testing.T, keys []string, claims ...contention.Claim) {
	t.Helper()
	cfg := d.config(t)
	store, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, store.Close()) }()
	require.NoError(t, store.Verify(t.Context()))
	require.NoError(t, contention.Judge(t.Context(), store, cfg.DefaultRegion, cfg.AccountID, keys, claims...))
}
