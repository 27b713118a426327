package iam

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// away is a token that can be away, and that somebody can put another in the place of.
type away struct {
	mac   func(context.Context, uint32, []byte) ([]byte, error)
	gone  atomic.Bool
	made  atomic.Int64 // MACs
	epoch atomic.Pointer[Epoch]
}

var errAway = errors.New("the token is away")

func (a *away) MAC(ctx context.Context, epoch uint32, message []byte) ([]byte, error) {
	if a.gone.Load() {
		return nil, errAway
	}
	defer a.made.Add(1)
	return a.mac(ctx, epoch, message)
}

// errEpoch is when it cannot be told which key makes MACs now.
var errEpoch = errors.New("the store does not confirm what is cached")

func (a *away) Epoch(context.Context, uint32) (Epoch, error) {
	if epoch := a.epoch.Load(); epoch != nil {
		return *epoch, nil
	}
	return Epoch{}, errEpoch
}

// newAway makes a Directory whose token can be away, and an access key of the root.
func newAway(t *testing.T) (*Directory, *away, AccessKey) {
	rig := newRig(t)
	a := &away{mac: rig.cfg.MAC}
	a.epoch.Store(&Epoch{Key: 1})
	rig.cfg.MAC, rig.cfg.Epoch = a.MAC, a.Epoch
	made, err := rig.CreateAccessKey(t.Context(), PrincipalName{})
	require.NoError(t, err)
	return New(rig.cfg), a, made
}

// Requests are authenticated over midnight while the token is away, but not for longer; and for longer if it was there in between.
func TestSigningKeyOfTheDayAfter(t *testing.T) {
	d, token, access := newAway(t)
	ask := func(date string) error {
		key, caller, err := d.SigningKey(t.Context(), access.ID, date, testRegion, "kms")
		if err == nil {
			require.True(t, key == sigv4.SigningKey(access.Secret, date, testRegion, "kms"), date)
			require.Equal(t, d.Root(testAccount), caller)
		}
		return err
	}
	require.NoError(t, ask("20261231"))
	token.gone.Store(true)
	require.NoError(t, ask("20261231"))
	require.NoError(t, ask("20270101"))
	require.ErrorIs(t, ask("20270102"), errAway, "nothing was made of a secret for two days ahead")
	_, _, err := d.SigningKey(t.Context(), access.ID, "20270101", "eu-central-1", "kms")
	require.ErrorIs(t, err, errAway, "of another region")
	_, _, err = d.SigningKey(t.Context(), access.ID, "20270101", testRegion, "sts")
	require.ErrorIs(t, err, errAway, "of another service")
	require.ErrorIs(t, ask("not a date"), errAway)

	token.gone.Store(false)
	before := token.made.Load()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); d.Run(ctx) }()
	require.NoError(t, ask("20270101"), "which asks for the key of the day after, as before")
	require.Eventually(t, func() bool { return token.made.Load() > before }, 30*time.Second, time.Millisecond)
	token.gone.Store(true)
	require.Eventually(t, func() bool { return ask("20270102") == nil }, 30*time.Second, time.Millisecond)
	stop()
	<-ended
}

// When another token was in the place of the right one, or another key makes the secrets, no signing key that was made before is believed.
func TestSigningKeysEndWithTheEpoch(t *testing.T) {
	for name, change := range map[string]func(*Epoch){
		"another token": func(e *Epoch) { e.Mistaken++ },
		"another key":   func(e *Epoch) { e.Key++ },
		"no key":        func(e *Epoch) { e.Key = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			d, token, access := newAway(t)
			ask := func(date string) error {
				_, _, err := d.SigningKey(t.Context(), access.ID, date, testRegion, "kms")
				return err
			}
			require.NoError(t, ask("20261231"))
			token.gone.Store(true)
			require.NoError(t, ask("20261231"))
			before := *token.epoch.Load()
			after := before
			change(&after)
			token.epoch.Store(&after)
			require.ErrorIs(t, ask("20261231"), errAway)
			require.ErrorIs(t, ask("20270101"), errAway)
			token.epoch.Store(&before)
			require.ErrorIs(t, ask("20261231"), errAway, "what was made before is gone for good")
			token.gone.Store(false)
			require.NoError(t, ask("20261231"))
			token.gone.Store(true)
			require.NoError(t, ask("20270101"))
		})
	}
}

// Nobody is authenticated while it cannot be told by which key secrets are made now.
func TestSigningKeysNeedTheEpoch(t *testing.T) {
	d, token, access := newAway(t)
	_, _, err := d.SigningKey(t.Context(), access.ID, "20261231", testRegion, "kms")
	require.NoError(t, err)
	token.epoch.Store(nil)
	_, _, err = d.SigningKey(t.Context(), access.ID, "20261231", testRegion, "kms")
	require.ErrorIs(t, err, errEpoch)
}
