package pkcs11kms

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// requireCopies waits until a region has so many session copies of keys.
func requireCopies(t *testing.T, c *Client, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return c.bridge.Stats().Sessions[testRegion].Copies == n }, 10*time.Second, 5*time.Millisecond)
}

// Whatever is changed about a key ends the use of its copy, in this process and in every other one.
func TestCopyGoesWhenItsKeyIsChanged(t *testing.T) {
	cfg := newConfig(t)
	c, other := openClient(t, cfg), openClient(t, cfg)
	for _, spec := range []types.KeySpec{types.KeySpecHmac256, types.KeySpecEccNistP256} {
		key := mustCreate(t, c, spec)
		for name, change := range map[string]func() error{
			"description": func() error {
				text := "another one"
				_, err := c.UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: key.KeyId, Description: &text})
				return err
			},
			"state": func() error {
				if _, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: key.KeyId}); err != nil {
					return err
				}
				_, err := c.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: key.KeyId})
				return err
			},
			"deletion": func() error {
				days := int32(7)
				_, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: key.KeyId, PendingWindowInDays: &days})
				if err == nil {
					_, err = c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: key.KeyId})
				}
				if err == nil {
					_, err = c.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: key.KeyId})
				}
				return err
			},
		} {
			t.Run(string(spec)+" "+name, func(t *testing.T) {
				for _, client := range []*Client{c, other} {
					require.Eventually(t, func() bool {
						requireUsable(t, client, key)
						return client.bridge.Stats().Sessions[testRegion].Copies == 1
					}, 10*time.Second, 5*time.Millisecond)
				}
				require.NoError(t, change())
				requireCopies(t, c, 0)
				requireCopies(t, other, 0)
			})
		}
	}
}

// Where the operator does not want copies there are none.
func TestNoSessionCopies(t *testing.T) {
	cfg := newConfig(t)
	cfg.NoSessionCopies = true
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	for range 5 {
		requireUsable(t, c, key)
	}
	requireCopies(t, c, 0)
}
