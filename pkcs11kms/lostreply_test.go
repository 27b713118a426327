package pkcs11kms

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// through puts a module that injects faults in front of the token of a configuration.
func through(t *testing.T) (testConfig, *faultp11.Module) {
	t.Helper()
	cfg, tok := newConfigAndToken(t)
	m := faultp11.New(t, tok.Module)
	tok.Module = m.Path
	cfg.Regions = map[string]Region{testRegion: {Token: tok.URI(tok.PINFile)}}
	return cfg, m
}

// lostReplies are kinds of keys, and the function whose reply is lost while they are made.
var lostReplies = []struct {
	spec     types.KeySpec
	usage    types.KeyUsageType
	function string
}{
	{types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac, "C_GenerateKey"},
	{types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify, "C_GenerateKeyPair"},
}

// awaitToken waits until the token is there: while it shows no object it cannot prove that it is the region's.
func awaitToken(t *testing.T, c *Client) {
	t.Helper()
	require.Eventually(t, func() bool { return c.region.Token.State().Up }, 20*time.Second, time.Millisecond)
}

// objectsAndRecords counts the objects in the token, public keys aside, and the records that are half made.
func objectsAndRecords(t *testing.T, c *Client) (objects, unfinished int) {
	t.Helper()
	for _, o := range objectsOf(t, c.region.Token) {
		if o.ClassName() != "CKO_PUBLIC_KEY" {
			objects++
		}
	}
	recs, err := c.bridge.core.Store.Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 10)
	require.NoError(t, err)
	return objects, len(recs)
}

// The token makes the key, and the answer is lost. Nobody was told of the key, so it must not stay: not even if the token does not show it
// when it is looked for. It is not made a second time.
func TestLostReplyOfCreateKeyLeavesNothing(t *testing.T) {
	rvs := []uint{pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_HOST_MEMORY, 0x80000001}
	for name, missed := range map[string]struct {
		rvs    []uint
		rule   string // for the searches after that of SoftHSM's index, which comes before the key is made
		before bool   // there is nothing left before the janitor comes
	}{
		"found":                    {rvs, "", true},
		"missed once":              {rvs, "C_FindObjects empty skip=1 times=1", true},
		"missed until the janitor": {rvs[:1], "C_FindObjects empty skip=1", false}, // which takes a call timeout
	} {
		for _, lost := range lostReplies {
			for _, rv := range missed.rvs {
				t.Run(fmt.Sprintf("%s, %s, 0x%X", name, lost.spec, rv), func(t *testing.T) {
					cfg, m := through(t)
					c := openClient(t, cfg)
					m.Do("reset")
					m.Fail(lost.function, rv, "after", "times=1")
					if missed.rule != "" {
						m.Rule(missed.rule)
					}
					_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: lost.spec, KeyUsage: lost.usage})
					requireCode(t, err, "DependencyTimeoutException")
					assert.Equal(t, 1, m.Counters()[lost.function].Calls, "it is not made again")
					m.Clear()
					awaitToken(t, c)
					objects, unfinished := objectsAndRecords(t, c)
					assert.Equal(t, missed.before, objects == 0)
					assert.Equal(t, objects, unfinished, "what is left is named by a record")

					_, err = c.bridge.core.Keys.Tidy(t.Context())
					require.NoError(t, err)
					objects, unfinished = objectsAndRecords(t, c)
					assert.Zero(t, objects, "an orphan")
					assert.Zero(t, unfinished)
					mustCreate(t, c, lost.spec)
				})
			}
		}
	}
}

// A pair of which the token can make no use is destroyed again. Where that fails, and the token does not show the pair, its record stays
// for the janitor.
func TestPairOfNoUseLeavesNothing(t *testing.T) {
	cfg, m := through(t)
	c := openClient(t, cfg)
	m.Fail("C_SignInit", pkcs11.CKR_KEY_TYPE_INCONSISTENT)
	m.Fail("C_DestroyObject", pkcs11.CKR_DEVICE_ERROR)
	m.Rule("C_FindObjects empty")
	_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
	requireCode(t, err, "UnsupportedOperationException")
	m.Clear()
	awaitToken(t, c)
	objects, unfinished := objectsAndRecords(t, c)
	require.Equal(t, 1, objects)
	require.Equal(t, 1, unfinished, "what is left is named by a record")
	_, err = c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	requireNothingHalfMade(t, c, 0)
}

// A record whose object was never made goes with the janitor, and its place in the quota.
func TestCreateKeyThatMadeNothingLeavesNothing(t *testing.T) {
	cfg, m := through(t)
	cfg.Quotas.Keys = 1
	c := openClient(t, cfg)
	m.Fail("C_GenerateKey", pkcs11.CKR_DEVICE_ERROR, "times=1")
	_, err := createHMAC256(t.Context(), c)
	requireCode(t, err, "DependencyTimeoutException")
	_, err = c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	requireNothingHalfMade(t, c, 0)
	mustCreate(t, c, types.KeySpecHmac256)
}

// The key is made and its reply hangs; its caller is answered, and the program ends before the call comes back. The next one removes it.
func TestHungReplyOfCreateKeyIsRemovedByTheNextProcess(t *testing.T) {
	for _, lost := range lostReplies {
		t.Run(string(lost.spec), func(t *testing.T) {
			cfg, m := through(t)
			c, err := newAt(context.WithoutCancel(t.Context()), cfg)
			require.NoError(t, err)
			<-c.bridge.core.Keys.Settled()
			m.Rule(lost.function + " hang after")
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := c.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: lost.spec, KeyUsage: lost.usage})
				done <- err
			}()
			m.Await(lost.function, func(n faultp11.Counters) bool { return n.Hanging == 1 })
			cancel()
			require.Error(t, <-done)
			m.Fail("C_DestroyObject", pkcs11.CKR_DEVICE_REMOVED) // so that it cannot undo itself
			m.Do("release")
			m.Await(lost.function, func(n faultp11.Counters) bool { return n.Inside == 0 })
			require.NoError(t, c.Close())
			m.Clear()

			next := openClient(t, cfg)
			_, err = next.bridge.core.Keys.Tidy(t.Context())
			require.NoError(t, err)
			objects, unfinished := objectsAndRecords(t, next)
			assert.Zero(t, objects, "an orphan")
			assert.Zero(t, unfinished)
		})
	}
}

// A key that was acknowledged is there, whatever the calls behind it were answered with, and so it is for the next process.
func TestAcknowledgedKeyIsNeverLost(t *testing.T) {
	cfg, m := through(t)
	c, err := newAt(t.Context(), cfg)
	require.NoError(t, err)
	var made []*types.KeyMetadata
	for _, lost := range lostReplies {
		for _, rule := range []string{"C_CloseSession fail CKR_DEVICE_ERROR", "C_FindObjectsFinal fail CKR_DEVICE_ERROR skip=1",
			"C_OpenSession fail CKR_SESSION_COUNT skip=1", "C_DestroyObject fail CKR_DEVICE_ERROR", "C_Sign delay 5ms"} {
			r := m.Rule(rule)
			made = append(made, mustCreate(t, c, lost.spec))
			r.Remove()
		}
	}
	require.NoError(t, c.Close())
	next := openClient(t, cfg)
	_, err = next.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	objects, unfinished := objectsAndRecords(t, next)
	assert.Equal(t, len(made), objects)
	assert.Zero(t, unfinished)
	for _, k := range made {
		if k.KeyUsage == types.KeyUsageTypeGenerateVerifyMac {
			_, err := generate(t.Context(), next, k.KeyId, []byte("message"))
			assert.NoError(t, err)
			continue
		}
		_, err := next.Sign(t.Context(), &kms.SignInput{KeyId: k.KeyId, Message: []byte("message"),
			SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
		assert.NoError(t, err)
	}
}
