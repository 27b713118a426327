package pkcs11kms

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

func TestStreamAgreesWithGenerateMac(t *testing.T) {
	c := newClient(t)
	for _, spec := range keyring.MACSpecs {
		key := mustCreate(t, c, spec.Name)
		data := bytes.Repeat([]byte("0123456789abcdef"), 256)
		want, err := c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: key.KeyId, MacAlgorithm: spec.Algorithm, Message: data})
		require.NoError(t, err)
		for _, piece := range []int{1, 7, 1000, 4096} {
			s, err := c.NewMAC(t.Context(), *key.Arn, spec.Algorithm)
			require.NoError(t, err)
			n, err := io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{bytes.NewReader(data)}, make([]byte, piece))
			require.NoError(t, err)
			require.EqualValues(t, len(data), n)
			tag, err := s.Sum()
			require.NoError(t, err)
			require.True(t, bytes.Equal(want.Mac, tag), "pieces of %d bytes", piece)
			require.NoError(t, s.Close())
			_, err = s.Write([]byte("more"))
			require.ErrorIs(t, err, ErrClosed, "after Sum")
		}
	}
}

func TestStreamOfAMegabyteAndOfNothing(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	sum := func(data []byte) []byte {
		s, err := c.NewMAC(context.Background(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
		require.NoError(t, err)
		_, err = s.Write(data)
		require.NoError(t, err)
		tag, err := s.Sum()
		require.NoError(t, err)
		return tag
	}
	large := make([]byte, 1<<20)
	first := sum(large)
	require.True(t, bytes.Equal(first, sum(large)))
	large[1<<19] = 1
	require.False(t, bytes.Equal(first, sum(large)))
	require.Len(t, sum(nil), 32)
}

func TestStreamRefusals(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	_, err := c.NewMAC(t.Context(), "", "HMAC_SHA_1")
	require.ErrorContains(t, err, "2 validation errors detected")
	_, err = c.NewMAC(t.Context(), unknownID, types.MacAlgorithmSpecHmacSha256)
	requireAPIError(t, err, "NotFoundException", "Key '"+arnOf(unknownID)+"' does not exist")
	_, err = c.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha224)
	requireAPIError(t, err, "InvalidKeyUsageException", "Algorithm HMAC_SHA_224 is incompatible with key spec HMAC_256.")
}

// A stream ends when its key is disabled: at the next check, and at Sum in any case.
func TestStreamOfAKeyThatIsDisabled(t *testing.T) {
	cfg := newConfig(t)
	clk := newClock()
	cfg.Now = clk.Now
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	begin := func() *MACStream {
		s, err := c.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
		require.NoError(t, err)
		_, err = s.Write([]byte("data"))
		require.NoError(t, err)
		return s
	}
	writing, summing := begin(), begin()
	require.NoError(t, toggle(t.Context(), c, key.KeyId, false))
	clk.Advance(500 * time.Millisecond)
	_, err := writing.Write([]byte("more"))
	requireAPIError(t, err, "DisabledException", *key.Arn+" is disabled.")
	_, err = summing.Sum()
	requireAPIError(t, err, "DisabledException", *key.Arn+" is disabled.")
	requireSessionsBack(t, c)
}

// A stream that nobody ends gives its session back: with its context, or when it is forgotten.
func TestAbandonedStreams(t *testing.T) {
	cfg := newConfig(t)
	cfg.MaxSessions = 4 // one of them for streams
	cfg.CallTimeout = 20 * time.Second
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.NewMAC(ctx, *key.KeyId, types.MacAlgorithmSpecHmacSha256)
	require.NoError(t, err)
	short, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	_, err = c.NewMAC(short, *key.KeyId, types.MacAlgorithmSpecHmacSha256)
	requireCode(t, err, "ThrottlingException") // a quarter of the sessions at most
	_, err = generate(t.Context(), c, key.KeyId, []byte("m"))
	require.NoError(t, err, "the others are for everybody else")
	cancel()
	requireSessionsBack(t, c)
	_, err = s.Write([]byte("late"))
	require.ErrorIs(t, err, context.Canceled)

	func() {
		_, err := c.NewMAC(context.Background(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
		require.NoError(t, err)
	}()
	require.Eventually(t, func() bool { runtime.GC(); return c.region.Token.Stats().InUse == 0 }, 10*time.Second, time.Millisecond)
}

// A token that is busy until the deadline is an answer that SDKs try again by themselves.
func TestBusyTokenIsThrottling(t *testing.T) {
	cfg := newConfig(t)
	cfg.MaxSessions, cfg.CallTimeout = 1, 2*time.Second
	c := openClient(t, cfg)
	key := mustCreateDirectly(t, c)
	s, err := c.NewMAC(context.Background(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
	require.NoError(t, err)
	_, err = generate(context.Background(), c, key.KeyId, []byte("m"))
	requireAPIError(t, err, "ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.")
	require.NoError(t, s.Close())
	require.Eventually(t, func() bool {
		_, err := generate(context.Background(), c, key.KeyId, []byte("m"))
		return err == nil
	}, 10*time.Second, time.Millisecond)
}

// mustCreateDirectly creates a key with a context that cannot end, so that a short call timeout does not bound the token.
func mustCreateDirectly(t *testing.T, c *Client) *types.KeyMetadata {
	out, err := c.CreateKey(context.Background(),
		&kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	require.NoError(t, err)
	return out.KeyMetadata
}

// A call that waited for the token counts only if its key may still be used when it is done.
func TestKeyThatIsDisabledWhileACallWaits(t *testing.T) {
	cfg := newConfig(t)
	clk := newClock()
	cfg.Now, cfg.MaxSessions, cfg.CallTimeout = clk.Now, 1, 30*time.Second
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	for _, ctx := range []context.Context{context.Background(), t.Context()} {
		s, err := c.NewMAC(context.Background(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
		require.NoError(t, err)
		answer := make(chan error, 1)
		go func() { _, err := generate(ctx, c, key.KeyId, []byte("m")); answer <- err }()
		require.Eventually(t, func() bool { return c.region.Token.Stats().Waiting == 1 }, 10*time.Second, time.Millisecond)
		require.NoError(t, toggle(t.Context(), c, key.KeyId, false))
		clk.Advance(500 * time.Millisecond)
		require.NoError(t, s.Close())
		requireAPIError(t, <-answer, "DisabledException", *key.Arn+" is disabled.")
		require.NoError(t, toggle(t.Context(), c, key.KeyId, true))
	}
}

// So it is when an alias has led to the key, and leads to another one by then.
func TestKeyOfAnAliasThatIsDisabledWhileACallWaits(t *testing.T) {
	cfg := newConfig(t)
	clk := newClock()
	cfg.Now, cfg.MaxSessions, cfg.CallTimeout = clk.Now, 1, 30*time.Second
	c := openClient(t, cfg)
	key, other := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/moving", key.KeyId)
	s, err := c.NewMAC(context.Background(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
	require.NoError(t, err)
	answer := make(chan error, 1)
	go func() { _, err := generate(t.Context(), c, ptr("alias/moving"), []byte("m")); answer <- err }()
	require.Eventually(t, func() bool { return c.region.Token.Stats().Waiting == 1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, updateAlias("alias/moving")(t, c, other.KeyId))
	require.NoError(t, toggle(t.Context(), c, key.KeyId, false))
	clk.Advance(500 * time.Millisecond)
	require.NoError(t, s.Close())
	requireAPIError(t, <-answer, "DisabledException", *key.Arn+" is disabled.")
}

// What was used after its end says so, and is no internal error.
func TestStreamUsedAfterItsEnd(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	s, err := c.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
	require.NoError(t, err)
	_, err = s.Sum()
	require.NoError(t, err)
	_, err = s.Write([]byte("more"))
	require.ErrorIs(t, err, ErrClosed)
	s, err = c.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	_, err = s.Sum()
	require.ErrorIs(t, err, ErrClosed)
}
