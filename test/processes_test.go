package test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

const (
	loops       = 8  // processes at any one time
	keysPerLoop = 20 // keys that each loop makes
)

// signed is a MAC that one process made with a key that another one had made.
type signed struct {
	keyID   string
	message []byte
	mac     string
}

// board is where the loops find each other's keys. It is safe for concurrent use.
type board struct {
	mu    sync.Mutex
	made  [loops][]string
	macs  []signed
	turns int
}

func (b *board) add(loop int, keyID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.made[loop] = append(b.made[loop], keyID)
}

// foreign returns the newest key of another loop, one loop after the other; the newest of all loops when there is none.
func (b *board) foreign(loop int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range loops {
		b.turns++
		other := (b.turns + i) % loops
		if keys := b.made[other]; other != loop && len(keys) > 0 {
			return keys[len(keys)-1]
		}
	}
	return b.made[loop][len(b.made[loop])-1]
}

func (b *board) keep(s signed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.macs = append(b.macs, s)
}

func (b *board) all() (keys []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, made := range b.made {
		keys = append(keys, made...)
	}
	return keys
}

// work makes the keys of one loop, each in a process of its own, and after each signs with a key of another loop and
// verifies, in two more processes.
func (b *board) work(d *stateDir, loop int) error {
	for i := range keysPerLoop {
		var made createdAnswer
		if err := answered(d.command(createArgs...), &made); err != nil {
			return err
		}
		b.add(loop, made.KeyMetadata.KeyId)
		s := signed{keyID: b.foreign(loop), message: fmt.Appendf(nil, "message %d of loop %d", i, loop)}
		var mac macAnswer
		if err := answered(d.command(macArgs("generate-mac", s.keyID, s.message)...), &mac); err != nil {
			return err
		}
		s.mac = mac.Mac
		var verified verifyAnswer
		if err := answered(d.command(macArgs("verify-mac", s.keyID, s.message, "--mac", s.mac)...), &verified); err != nil {
			return err
		}
		if !verified.MacValid {
			return errors.New("verify-mac succeeded without MacValid")
		}
		b.keep(s)
	}
	return nil
}

// TestProcessesShareAStateDirectory: every process of the binary runs a pass of the janitor, so one that took another's
// key in the making for a dead one's would be seen here as a key that is lost or cannot be created.
func TestProcessesShareAStateDirectory(t *testing.T) {
	long(t)
	d := newStateDir(t)
	b := &board{}
	var group errgroup.Group
	for loop := range loops {
		group.Go(func() error { return b.work(d, loop) })
	}
	require.NoError(t, group.Wait())

	made := b.all()
	require.Len(t, made, loops*keysPerLoop)
	slices.Sort(made)
	require.Equal(t, made, slices.Compact(slices.Clone(made)), "a key id was given out twice")
	assert.Equal(t, made, d.listKeys(t), "list-keys")
	assert.Empty(t, unfinished(d.records(t)))
	assert.LessOrEqual(t, d.assertAudited(t, made), loops, "chains: as many as there were processes at a time")
	c := d.client(t)
	assert.Equal(t, made, listInPages(t, c, 7), "ListKeys")

	region := d.doctor(t)
	assert.Len(t, region.Keys, len(made)+1, "and the region's binding key")
	assert.Empty(t, region.Unknown)
	assert.Len(t, raw(t, d.token, rawJob{}).Objects, len(made)+1, "objects in the token")

	require.Len(t, b.macs, loops*keysPerLoop)
	for _, s := range b.macs {
		mac := decodeMAC(t, s.mac)
		_, err := c.VerifyMac(t.Context(), verifyInput(s.keyID, types.MacAlgorithmSpecHmacSha256, s.message, mac))
		assert.NoError(t, err, "a MAC made by the key %s", s.keyID)
	}
}

func listInPages(t *testing.T, c kms.ListKeysAPIClient, limit int32) (found []string) {
	t.Helper()
	pages := kms.NewListKeysPaginator(c, &kms.ListKeysInput{Limit: aws.Int32(limit)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		require.NoError(t, err)
		require.LessOrEqual(t, len(page.Keys), int(limit))
		for _, k := range page.Keys {
			found = append(found, aws.ToString(k.KeyId))
		}
	}
	return found
}

// TestDisabledKeyIsRefusedByOtherProcesses: the processes that watch have the key in their caches when it is disabled.
func TestDisabledKeyIsRefusedByOtherProcesses(t *testing.T) {
	d := newStateDir(t)
	keyID := d.createKey(t)
	watchers := []*process{}
	for range 2 {
		watchers = append(watchers, start(t, d.token.Env(), "watcher", libraryJob{StateDir: d.path, KeyID: keyID}))
	}
	c := d.client(t)
	sees := func(want string) {
		t.Helper()
		for _, w := range watchers {
			var now string
			w.next(&now)
			require.Equal(t, want, now)
		}
		require.Eventually(t, func() bool {
			now, err := serves(c, keyID)
			return assert.NoError(t, err) && now == want
		}, time.Minute, 10*time.Millisecond)
	}
	sees("served")
	for range 3 {
		d.must(t, nil, "disable-key", "--key-id", keyID)
		sees("disabled")
		refused, err := run(d.command(macArgs("generate-mac", keyID, []byte("message"))...))
		require.NoError(t, err)
		assert.Equal(t, 1, refused.code)
		assert.Contains(t, string(refused.stderr), "DisabledException")
		d.must(t, nil, "enable-key", "--key-id", keyID)
		sees("served")
	}
	for _, w := range watchers {
		w.end()
		w.finish()
	}
}

// TestLongLivedProcessesUseEachOthersKeys: a process that has its token open for long sees what others made in the meantime,
// even what they made while it was making keys itself.
func TestLongLivedProcessesUseEachOthersKeys(t *testing.T) {
	long(t)
	require.Zero(t, usePeers(t, newStateDir(t), libraryJob{KeySpec: types.KeySpecHmac256, Keys: 40}, 4, false))
}

// usePeers lets n processes make keys at once and then use the keys of all. It returns how often one of them did not see another's. They
// are started at once, or in turns.
func usePeers(t *testing.T, d *stateDir, job libraryJob, n int, inTurns bool) (unseen int) {
	t.Helper()
	job.StateDir = d.path
	var peers []*process
	opened := func(p *process) {
		var open string
		p.next(&open)
	}
	for range n {
		p := start(t, d.token.Env(), "peer", job)
		peers = append(peers, p)
		if inTurns {
			opened(p)
		}
	}
	for _, p := range peers {
		if !inTurns {
			opened(p)
		}
	}
	for _, p := range peers {
		p.tell(true)
	}
	var all []madeKey
	for _, p := range peers {
		var made []madeKey
		p.next(&made)
		all = append(all, made...)
	}
	for _, p := range peers {
		p.tell(all)
		p.end()
	}
	for _, p := range peers {
		var some int
		p.next(&some)
		unseen += some
		p.finish()
	}
	return unseen
}
