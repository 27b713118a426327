package pkcs11kms

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	cttypes "github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func lastUsage(t *testing.T, c *Client, keyID *string) *kms.GetKeyLastUsageOutput {
	t.Helper()
	out, err := c.GetKeyLastUsage(t.Context(), &kms.GetKeyLastUsageInput{KeyId: keyID})
	require.NoError(t, err)
	return out
}

// Each operation that uses a key's material with success is its last use, with the ids of the record by which LookupEvents shows it; what
// fails, is refused or uses none is not.
func TestGetKeyLastUsage(t *testing.T) {
	clk := newClock()
	c, _ := newSearched(t, func(cfg *testConfig) { cfg.Now = clk.Now })
	mac, pair := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecEccNistP256)
	require.Equal(t, &kms.GetKeyLastUsageOutput{KeyId: mac.KeyId, KeyCreationDate: mac.CreationDate, TrackingStartDate: mac.CreationDate,
		KeyLastUsage: &types.KeyLastUsageData{}}, lastUsage(t, c, mac.KeyId))
	tag, err := generate(t.Context(), c, mac.KeyId, []byte("m"))
	require.NoError(t, err)
	message := []byte("m")
	signed, err := c.Sign(t.Context(), &kms.SignInput{KeyId: pair.KeyId, Message: message, SigningAlgorithm: "ECDSA_SHA_256"})
	require.NoError(t, err)
	uses := map[string]func(keyID *string) error{
		"GenerateMac": func(keyID *string) error { _, err := generate(t.Context(), c, keyID, message); return err },
		"VerifyMac":   func(keyID *string) error { return verify(t.Context(), c, keyID, message, tag) },
		"Sign": func(keyID *string) error {
			_, err := c.Sign(t.Context(), &kms.SignInput{KeyId: keyID, Message: message, SigningAlgorithm: "ECDSA_SHA_256"})
			return err
		},
		"Verify": func(keyID *string) error {
			_, err := c.Verify(t.Context(), &kms.VerifyInput{KeyId: keyID, Message: message, SigningAlgorithm: "ECDSA_SHA_256",
				Signature: signed.Signature})
			return err
		},
	}
	for operation, use := range uses {
		key := mac
		if operation == "Sign" || operation == "Verify" {
			key = pair
		}
		clk.Advance(time.Minute)
		require.NoError(t, use(key.Arn))
		c.requireLastUse(t, key, operation, clk.Now())
	}

	last := lastUsage(t, c, mac.KeyId).KeyLastUsage
	require.Error(t, verify(t.Context(), c, mac.KeyId, []byte("another"), tag))
	dry := true
	_, err = c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: mac.KeyId, Message: message, MacAlgorithm: "HMAC_SHA_256", DryRun: &dry})
	requireCode(t, err, "DryRunOperationException")
	describe(t, c, mac.KeyId)
	require.NoError(t, toggle(t.Context(), c, mac.KeyId, false))
	_, err = generate(t.Context(), c, mac.KeyId, message)
	requireCode(t, err, "DisabledException")
	require.Equal(t, last, lastUsage(t, c, mac.KeyId).KeyLastUsage)
	require.NoError(t, toggle(t.Context(), c, mac.KeyId, true))

	clk.Advance(time.Minute)
	stream, err := c.NewMAC(t.Context(), *mac.Arn, "HMAC_SHA_256")
	require.NoError(t, err)
	began := c.requireLastUse(t, mac, "GenerateMac", clk.Now())
	clk.Advance(time.Minute)
	_, err = stream.Sum()
	require.NoError(t, err)
	assert.Equal(t, began, c.requireLastUse(t, mac, "GenerateMac", clk.Now()), "the record of its beginning tells of a stream")
}

// requireLastUse holds what the last use of a key was, and that the audit log has its record; it returns the id of that.
func (c *Client) requireLastUse(t *testing.T, key *types.KeyMetadata, operation string, at time.Time) string {
	t.Helper()
	last := lastUsage(t, c, key.KeyId).KeyLastUsage
	require.Equal(t, types.KeyLastUsageTrackingOperation(operation), last.Operation)
	require.Equal(t, at.UTC().Truncate(time.Second), *last.Timestamp)
	out, err := c.LookupEvents(t.Context(), lookedUp(cttypes.LookupAttributeKeyEventId, *last.CloudTrailEventId))
	require.NoError(t, err)
	require.Len(t, out.Events, 1)
	require.Equal(t, operation, *out.Events[0].EventName)
	require.Equal(t, *key.Arn, *out.Events[0].Resources[0].ResourceName)
	var record map[string]any
	require.NoError(t, json.Unmarshal([]byte(*out.Events[0].CloudTrailEvent), &record))
	require.Equal(t, *last.KmsRequestId, record["requestID"])
	return *last.CloudTrailEventId
}

// The request of a connection keeps the id that its answer has, and where nothing is recorded there is no event.
func TestGetKeyLastUsageWithoutALog(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	_, err := generate(t.Context(), c.As(c.caller.From(Connection{RequestID: "the-request"})), key.KeyId, []byte("m"))
	require.NoError(t, err)
	last := lastUsage(t, c, key.KeyId).KeyLastUsage
	require.Equal(t, [2]any{(*string)(nil), "the-request"}, [2]any{last.CloudTrailEventId, *last.KmsRequestId})
}

// A use that could not be recorded was answered to nobody.
func TestAUseThatIsNotRecordedIsNone(t *testing.T) {
	c, log := auditedClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	log.record = errors.New("the disk is full")
	_, err := generate(t.Context(), c, key.KeyId, []byte("m"))
	requireCode(t, err, "KMSInternalException")
	log.record = nil
	require.Empty(t, lastUsage(t, c, key.KeyId).KeyLastUsage)
}

// What one process has used is written when it ends; a store from before this tells since when it is noted.
func TestLastUsageOfAnotherProcess(t *testing.T) {
	cfg := newConfig(t)
	clk := newClock()
	cfg.Now = clk.Now
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	since := keystore.CounterRef(testRegion, testAccount, keystore.CounterKeyUses)
	rec, err := c.bridge.core.Store.Get(t.Context(), since)
	require.NoError(t, err)
	put(t, c, keystore.Change{Op: keystore.Delete, Ref: since, Expect: rec.Version}) // as in a store of before
	clk.Advance(time.Hour)
	opened := clk.Now().UTC().Truncate(time.Millisecond)
	other := openClient(t, cfg)
	require.Equal(t, opened, *lastUsage(t, other, key.KeyId).TrackingStartDate)
	clk.Advance(time.Minute)
	_, err = generate(t.Context(), other, key.KeyId, []byte("m"))
	require.NoError(t, err)
	require.Empty(t, lastUsage(t, c, key.KeyId).KeyLastUsage, "a request writes nothing")
	require.NoError(t, other.Close())
	got := lastUsage(t, c, key.KeyId)
	require.Equal(t, types.KeyLastUsageTrackingOperationGenerateMac, got.KeyLastUsage.Operation)
	require.Equal(t, clk.Now().UTC().Truncate(time.Second), *got.KeyLastUsage.Timestamp)
	require.Equal(t, opened.Truncate(time.Second), *got.TrackingStartDate)
	young := mustCreate(t, c, types.KeySpecHmac256)
	require.Equal(t, *young.CreationDate, *lastUsage(t, c, young.KeyId).TrackingStartDate)
}

// The record of a key's last use goes with the key, in the step after which there is no way back.
func TestTheLastUseGoesWithTheKey(t *testing.T) {
	cfg := newConfig(t)
	clk := newClock()
	cfg.Now = clk.Now
	c := openClient(t, cfg)
	gone, kept := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	other := openClient(t, cfg)
	for _, key := range []*types.KeyMetadata{gone, kept} {
		_, err := generate(t.Context(), c, key.KeyId, []byte("m"))
		require.NoError(t, err)
		_, err = generate(t.Context(), other, key.KeyId, []byte("m"))
		require.NoError(t, err)
	}
	require.NoError(t, c.bridge.core.Uses.Write(t.Context(), false))
	stored := func(key *types.KeyMetadata) bool {
		_, err := c.bridge.core.Store.Get(t.Context(), keystore.KeyUseRef(testRegion, testAccount, *key.KeyId))
		if !errors.Is(err, keystore.ErrNotFound) {
			require.NoError(t, err)
		}
		return err == nil
	}
	require.True(t, stored(gone))
	schedule(t, c, gone.KeyId, 7)
	clk.Advance(7 * day)
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	require.False(t, stored(gone))
	require.NoError(t, other.Close(), "which writes the uses that it has seen")
	require.False(t, stored(gone))
	require.True(t, stored(kept))
}
