package iam

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// tokenRig is a rig whose clock, HSM and store's clock a test sets.
type tokenRig struct {
	*rig
	user   *Client
	now    time.Time
	latest time.Time
	epochs map[uint32]Epoch
	newest uint32
	macs   map[uint32]int // how often the HSM was asked, by epoch
	fails  error          // of the HSM
}

func newTokenRig(t *testing.T) *tokenRig {
	r := &tokenRig{rig: newRig(t), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), epochs: map[uint32]Epoch{1: {Key: 1}}, newest: 1,
		macs: map[uint32]int{}}
	mac := r.cfg.MAC
	r.cfg.MAC = func(ctx context.Context, epoch uint32, message []byte) ([]byte, error) {
		r.macs[epoch]++
		if r.fails != nil {
			return nil, r.fails
		}
		return mac(ctx, epoch, message)
	}
	r.cfg.Epoch = func(_ context.Context, epoch uint32) (Epoch, error) { return r.epochs[epoch], nil }
	newest := r.cfg.Newest
	r.cfg.Newest = func(ctx context.Context) (uint32, keystore.Change, error) {
		_, holds, err := newest(ctx)
		return r.newest, holds, err
	}
	r.cfg.Now = func() time.Time { return r.now }
	r.cfg.Latest = func(context.Context) (time.Time, error) { return r.latest, nil }
	r.restart()
	mustRole(t, r.Client, producer.Name, trustsAll)
	r.user = r.as(t, "Alice", "")
	return r
}

// restart puts another process in the place of the one that there was.
func (r *tokenRig) restart() {
	r.dir = New(r.cfg)
	r.Client = r.dir.Client().As(r.dir.Root(testAccount))
	if r.user != nil {
		r.user = r.dir.Client().As(r.user.caller)
	}
}

func (r *tokenRig) try(made AssumedRole, token string) error {
	_, _, err := r.dir.SessionKey(context.Background(), made.AccessKeyID, token, "20260102", testRegion, "kms")
	return err
}

// No text but the token that was made is one: 10,000 altered ones are refused as unknown, and the HSM hears of none of them.
func TestAlteredTokens(t *testing.T) {
	r := newTokenRig(t)
	made := assume(t, r.user, producerARN, "job")
	other := assume(t, r.user, producerARN, "other")
	r.restart()
	require.NoError(t, r.try(made, made.SessionToken))
	require.NoError(t, r.try(other, other.SessionToken))
	clear(r.macs)
	raw, err := base64.StdEncoding.DecodeString(made.SessionToken)
	require.NoError(t, err)
	foreign, err := base64.StdEncoding.DecodeString(other.SessionToken)
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 10_000 {
		altered := append([]byte(nil), raw...)
		switch at := random.IntN(len(raw)); i % 7 {
		case 0:
			altered[at] ^= byte(1 + random.IntN(255))
		case 1:
			altered = altered[:at]
		case 2:
			altered = append(altered, make([]byte, 1+random.IntN(40))...)
		case 3: // the head of one, the rest of another
			altered = append(altered[:min(at, len(foreign))], foreign[min(at, len(foreign)):]...)
		case 4: // another epoch
			binary.BigEndian.PutUint32(altered[1:], random.Uint32())
		case 5:
			for j := range altered {
				altered[j] = byte(random.Uint32())
			}
			altered[0], altered[1], altered[2], altered[3], altered[4] = tokenForm, 0, 0, 0, 1
		case 6:
			altered[0] = byte(2 + random.IntN(250))
		}
		text := base64.StdEncoding.EncodeToString(altered)
		if text == made.SessionToken || text == other.SessionToken {
			continue
		}
		require.ErrorIs(t, r.try(made, text), ErrUnknownAccessKey, text)
	}
	for _, text := range []string{"", "A", made.SessionToken + "=", made.SessionToken + "\n", " " + made.SessionToken,
		strings.TrimRight(made.SessionToken, "=") + "==", strings.Repeat("A", maxToken+4), strings.Repeat("A", 1<<20),
		base64.RawURLEncoding.EncodeToString(raw), made.AccessKeyID} {
		if text != made.SessionToken {
			require.ErrorIs(t, r.try(made, text), ErrUnknownAccessKey, "%.80q", text)
		}
	}
	require.Empty(t, r.macs)
	require.Equal(t, 2, r.dir.sessions.kept.Len(), "what is kept")
}

// A token belongs to one access key, and an access key of a session to its token.
func TestATokenIsBoundToItsAccessKey(t *testing.T) {
	r := newTokenRig(t)
	made, other := assume(t, r.user, producerARN, "job"), assume(t, r.user, producerARN, "job")
	require.NotEqual(t, made.SecretAccessKey, other.SecretAccessKey)
	for range 2 { // also once it is kept
		require.ErrorIs(t, r.try(other, made.SessionToken), ErrUnknownAccessKey)
		require.NoError(t, r.try(made, made.SessionToken))
	}
	long, err := r.CreateAccessKey(t.Context(), alice)
	require.NoError(t, err)
	require.ErrorIs(t, r.try(AssumedRole{AccessKeyID: long.ID}, made.SessionToken), ErrUnknownAccessKey)
	_, _, err = r.dir.SigningKey(t.Context(), made.AccessKeyID, "20260102", testRegion, "kms")
	require.ErrorIs(t, err, ErrUnknownAccessKey)
}

// A session ends when it was said to end: by the clock or, where that went back, by what the store has seen.
func TestSessionsEnd(t *testing.T) {
	r := newTokenRig(t)
	began := r.now
	made := assume(t, r.user, producerARN, "job")
	caller := r.session(t, made)
	r.now = began.Add(time.Hour - time.Second)
	require.NoError(t, r.try(made, made.SessionToken))
	r.now = began.Add(time.Hour)
	require.ErrorIs(t, r.try(made, made.SessionToken), ErrExpiredToken)
	who, err := r.dir.Identify(t.Context(), caller)
	require.NoError(t, err)
	require.Zero(t, who, "nobody")
	r.restart()
	require.ErrorIs(t, r.try(made, made.SessionToken), ErrExpiredToken)

	r.now, r.latest = began, began.Add(time.Hour)
	r.restart()
	require.ErrorIs(t, r.try(made, made.SessionToken), ErrExpiredToken, "the clock went back")
	_, err = r.user.AssumeRole(t.Context(), AssumeRoleInput{RoleARN: producerARN, SessionName: "job"})
	require.ErrorContains(t, err, "no session begins")
	r.latest = began.Add(30 * time.Second)
	r.restart()
	require.NoError(t, r.try(made, made.SessionToken))
	assume(t, r.user, producerARN, "job")
}

// When the service key is followed by another one sessions of before go on; when it is made anew, or gone, they end.
func TestTokensOfEpochs(t *testing.T) {
	r := newTokenRig(t)
	first := assume(t, r.user, producerARN, "job")
	r.epochs[2], r.newest = Epoch{Key: 7}, 2
	second := assume(t, r.user, producerARN, "job")
	for range 2 {
		require.NoError(t, r.try(first, first.SessionToken))
		require.NoError(t, r.try(second, second.SessionToken))
		require.ErrorIs(t, r.try(first, second.SessionToken), ErrUnknownAccessKey)
		r.restart()
	}
	raw, err := base64.StdEncoding.DecodeString(first.SessionToken)
	require.NoError(t, err)
	binary.BigEndian.PutUint32(raw[1:], 2)
	require.ErrorIs(t, r.try(first, base64.StdEncoding.EncodeToString(raw)), ErrUnknownAccessKey, "of another epoch than it says")
	require.NoError(t, r.try(first, first.SessionToken))
	require.NoError(t, r.try(second, second.SessionToken))
	mac := r.cfg.MAC
	r.dir.cfg.MAC = func(ctx context.Context, epoch uint32, message []byte) ([]byte, error) {
		return mac(ctx, epoch+100, message)
	}
	require.NoError(t, r.try(first, first.SessionToken))
	r.epochs[1] = Epoch{Key: 8}
	require.ErrorIs(t, r.try(first, first.SessionToken), ErrUnknownAccessKey, "the service key was made anew")
	r.epochs[1] = Epoch{Key: 8, Mistaken: 1}
	require.ErrorIs(t, r.try(first, first.SessionToken), ErrUnknownAccessKey)
	require.NoError(t, r.try(second, second.SessionToken))
	delete(r.epochs, 2)
	require.ErrorIs(t, r.try(second, second.SessionToken), ErrUnknownAccessKey, "the service key has gone")
}

// The HSM is asked once for each epoch, and while it fails once in a second, however many tokens come.
func TestTheHSMIsAskedOnce(t *testing.T) {
	r := newTokenRig(t)
	made := assume(t, r.user, producerARN, "job")
	r.restart()
	clear(r.macs)
	r.fails = errors.New("the HSM is away")
	for range 100 {
		require.ErrorIs(t, r.try(made, made.SessionToken), r.fails)
	}
	require.Equal(t, map[uint32]int{1: 1}, r.macs)
	r.now = r.now.Add(time.Second)
	r.fails = nil
	for range 100 {
		require.NoError(t, r.try(made, made.SessionToken))
	}
	require.Equal(t, map[uint32]int{1: 2}, r.macs)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	r.restart()
	_, _, err := r.dir.SessionKey(canceled, made.AccessKeyID, made.SessionToken, "20260102", testRegion, "kms")
	if err == nil {
		return
	}
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, r.try(made, made.SessionToken), "who went away keeps nobody else")
}

// Many at once find the same session, which costs no reading of the store once it is known.
func TestSessionsAreKept(t *testing.T) {
	r := newTokenRig(t)
	made := assume(t, r.user, producerARN, "job")
	counted := &countingStore{Store: r.cfg.Store}
	r.cfg.Store = counted
	r.restart()
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() { assert.NoError(t, r.try(made, made.SessionToken)) })
	}
	group.Wait()
	require.Equal(t, 1, r.macs[1]-1)
	before := counted.reads
	for range 100 {
		require.NoError(t, r.try(made, made.SessionToken))
	}
	require.Equal(t, before, counted.reads)
	require.Equal(t, 1, r.dir.sessions.kept.Len())
	for i := range maxScopes + 8 {
		_, _, err := r.dir.SessionKey(t.Context(), made.AccessKeyID, made.SessionToken, "20260102", testRegion, strings.Repeat("x", i))
		require.NoError(t, err)
	}
	kept, _ := r.dir.sessions.get(made.SessionToken)
	require.LessOrEqual(t, len(kept.signing), maxScopes)
}

// A token says nothing in clear of what it is about.
func TestTokensAreOpaque(t *testing.T) {
	r := newTokenRig(t)
	made := assume(t, r.user, producerARN, "job-name")
	raw, err := base64.StdEncoding.DecodeString(made.SessionToken)
	require.NoError(t, err)
	for _, text := range []string{"job-name", made.AccessKeyID, testAccount} {
		require.NotContains(t, string(raw), text)
	}
	again := assume(t, r.user, producerARN, "job-name")
	require.NotEqual(t, made.SessionToken[:32], again.SessionToken[:32])
}

// Whatever a token is, it is refused as unknown, or it is one that was made; and nothing is asked of the HSM for it.
func FuzzSessionToken(f *testing.F) {
	key := tokenKey{1}
	claims := sessionClaims{AccessKeyID: "ASIAAAAAAAAAAAAAAAAA", Account: testAccount, RoleID: "AROAAAAAAAAAAAAAAAAAA", Name: "job",
		Issued: 1, Expires: 2, Tags: []sessionTag{{"k", "v", true}}}
	token, err := key.seal(1, claims)
	require.NoError(f, err)
	f.Add(token)
	f.Add("")
	f.Add(token[:40])
	f.Add(strings.Repeat("A", 4096))
	f.Fuzz(func(t *testing.T, text string) {
		raw, epoch, err := tokenEpoch(text)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(text), maxToken)
		require.Equal(t, text, base64.StdEncoding.EncodeToString(raw), "one token has one spelling")
		opened, err := key.open(raw)
		if err == nil { // no other claims were ever sealed by the key
			require.Equal(t, claims, opened)
			require.EqualValues(t, 1, epoch)
		}
	})
}
