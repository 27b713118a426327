package pkcs11kms

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// editLearnt changes what the store says of the token of the test's region.
func editLearnt(t *testing.T, c *Client, edit func(string) string) (was string) {
	t.Helper()
	store := c.bridge.core.Store
	rec, err := store.Get(t.Context(), keystore.RegionRef(testRegion))
	require.NoError(t, err)
	bound, err := keystore.DecodeRegion(rec)
	require.NoError(t, err)
	was = string(bound.Learnt)
	now := edit(was)
	if now == was {
		return was
	}
	bound.Learnt = nil
	if now != "" {
		bound.Learnt = json.RawMessage(now)
	}
	_, err = store.Commit(t.Context(), bound.Put(rec.Version))
	require.NoError(t, err)
	return was
}

// learntText is what the store says.
func learntText(t *testing.T, c *Client) string {
	t.Helper()
	return editLearnt(t, c, func(text string) string { return text })
}

// made counts the calls that make an object, or ask for one.
func made(m *faultp11.Module) (calls int) {
	for _, function := range []string{"C_GenerateKey", "C_GenerateKeyPair", "C_CreateObject", "C_CopyObject"} {
		calls += m.Counters()[function].Calls
	}
	return calls
}

const no224 = "KeySpec HMAC_224 is not supported by the token: HMAC keys with SHA-224, use: C_SignInit: CKR_MECHANISM_INVALID."

// learntYubiHSM2 is a token of which a process has learnt what it can, and that is ended.
func learntYubiHSM2(t *testing.T) (testConfig, *faultp11.Module) {
	t.Helper()
	cfg, m := newVendorsConfig(t, yubiHSM2...)
	c := openClient(t, cfg)
	_, err := create(t, c, types.KeySpecHmac224)
	requireAPIError(t, err, "UnsupportedOperationException", no224)
	mustCreate(t, c, types.KeySpecEccNistP256)
	require.NoError(t, c.Close())
	return cfg, m
}

// What a process has found out about a token that makes no session objects the next one knows: it makes nothing in it, and asks for
// nothing, until a key is wanted, and refuses what is missing.
func TestWhatWasLearntIsKept(t *testing.T) {
	cfg, m := learntYubiHSM2(t)
	m.Do("reset")
	c := openClient(t, cfg)
	require.Zero(t, made(m))
	_, err := create(t, c, types.KeySpecHmac224)
	requireAPIError(t, err, "UnsupportedOperationException", no224)
	require.Zero(t, made(m), "it is known")
	requireUsable(t, c, mustCreate(t, c, types.KeySpecHmac512))
	text := learntText(t, c)
	for _, part := range []string{`"no_session_keys":true`, `"made":["ECC_NIST_P256","HMAC_256","HMAC_512"]`,
		`"gaps":[{"key_spec":"HMAC_224","what":"use","func":"C_SignInit","rv":112,"at":"`} {
		require.Contains(t, text, part)
	}
}

// A gap is tried again after ten minutes, in whatever process, and one that is there no more is forgotten by all.
func TestALearntGapIsTriedAgain(t *testing.T) {
	cfg, m := learntYubiHSM2(t)
	aged := func(by time.Duration) *Client {
		c := openClient(t, cfg)
		editLearnt(t, c, func(text string) string {
			head, gaps, ok := strings.Cut(text, `"gaps":`)
			require.True(t, ok)
			return head + `"gaps":` + earlier(t, gaps, by)
		})
		require.NoError(t, c.Close())
		return openClient(t, cfg)
	}
	m.Do("remove 4") // the refusal of CKM_SHA224_HMAC
	c := aged(8 * time.Minute)
	_, err := create(t, c, types.KeySpecHmac224)
	requireAPIError(t, err, "UnsupportedOperationException", no224)
	c = aged(2 * time.Minute)
	requireUsable(t, c, mustCreate(t, c, types.KeySpecHmac224))
	require.NotContains(t, learntText(t, c), "gaps")
}

// earlier takes a time off each time of a text.
func earlier(t *testing.T, text string, by time.Duration) string {
	t.Helper()
	parts := strings.Split(text, `"at":"`)
	for i := range parts[1:] {
		at, rest, ok := strings.Cut(parts[i+1], `"`)
		require.True(t, ok)
		when, err := time.Parse(time.RFC3339Nano, at)
		require.NoError(t, err)
		parts[i+1] = when.Add(-by).Format(time.RFC3339Nano) + `"` + rest
	}
	return strings.Join(parts, `"at":"`)
}

// Another firmware, maker or library, and time, are reasons to find it out anew.
func TestWhatWasLearntOfAnotherTokenCountsForNothing(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *faultp11.Module, *Client){
		"firmware": func(_ *testing.T, m *faultp11.Module, _ *Client) { m.Do("token firmware=7.3") },
		"model":    func(_ *testing.T, m *faultp11.Module, _ *Client) { m.Do("token model=YubiHSM%203") },
		"library":  func(_ *testing.T, m *faultp11.Module, _ *Client) { m.Do("token description=Another%20one") },
		"time": func(t *testing.T, _ *faultp11.Module, c *Client) {
			editLearnt(t, c, func(text string) string { return earlier(t, text, 7*24*time.Hour) })
		},
		"a clock that was wrong": func(t *testing.T, _ *faultp11.Module, c *Client) {
			editLearnt(t, c, func(text string) string { return earlier(t, text, -time.Hour) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, m := learntYubiHSM2(t)
			c := openClient(t, cfg)
			before := learntText(t, c)
			change(t, m, c)
			require.NoError(t, c.Close())
			m.Do("reset")
			c = openClient(t, cfg)
			require.NotZero(t, made(m))
			require.NotContains(t, learntText(t, c), "gaps")
			require.NotEqual(t, before, learntText(t, c))
		})
	}
}

// syncBuffer is a log that goroutines write.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// What is odd is passed over with a warning, and keeps nothing from working.
func TestOddMemoriesArePassedOver(t *testing.T) {
	cfg, _ := learntYubiHSM2(t)
	c := openClient(t, cfg)
	text := learntText(t, c)
	require.NoError(t, c.Close())
	odd := func(old, new string) string {
		require.Contains(t, text, old)
		return strings.Replace(text, old, new, 1)
	}
	for _, damaged := range []string{`5`, `[]`, `"x"`, odd(`"made":[`, `"made":["HMAC_1",`),
		odd(`"key_spec":"HMAC_224"`, `"key_spec":"HMAC_1"`), odd(`"what":"use"`, `"algorithm":"ECDSA_SHA_256","what":"use"`),
		odd(`"what":"use"`, `"what":"use\nkey"`), odd(`"what":"use"`, `"what":""`),
		odd(`"C_SignInit"`, `"C_SignInit: Ask The Operator"`), odd(`"rv":112`, `"rv":-1`), odd(`"rv":112`, `"rv":{}`),
		odd(`"func":"C_SignInit","rv":112,"at":"`, `"func":"C_SignInit","rv":112,"at":"2999-01-01T00:00:00Z","x":"`)} {
		c := openClient(t, cfg)
		editLearnt(t, c, func(string) string { return damaged })
		require.NoError(t, c.Close())
		log := &syncBuffer{}
		told := cfg
		told.Logger = slog.New(slog.NewTextHandler(log, nil))
		c = openClient(t, told)
		require.Contains(t, log.String(), "what the store says of the token of a region is odd, and is passed over", damaged)
		requireUsable(t, c, mustCreate(t, c, types.KeySpecHmac256))
		require.NoError(t, c.Close())
	}
}

// A wrong memory costs a refusal for ten minutes, or a trial, and makes no wrong answer.
func TestWrongMemories(t *testing.T) {
	cfg, _ := newVendorsConfig(t, "on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA384_HMAC")
	c := openClient(t, cfg)
	require.Empty(t, learntText(t, c), "each opening finds out by itself what such a token can do")
	i := c.region.Token.Info()
	memory, err := json.Marshal(map[string]any{
		"at": time.Now().UTC(), "manufacturer": i.Manufacturer, "model": i.Model, "firmware": i.FirmwareVersion,
		"library": i.LibraryDescription + " " + i.LibraryVersion, "no_session_keys": true, "made": []string{"HMAC_384"},
		"gaps": []map[string]any{{"key_spec": "ECC_NIST_P256", "what": "generation", "func": "C_GenerateKeyPair", "rv": 112,
			"at": time.Now().UTC()}},
	})
	require.NoError(t, err)
	editLearnt(t, c, func(string) string { return string(memory) })
	c = openClient(t, cfg)
	requireUsable(t, c, mustCreate(t, c, types.KeySpecHmac256))
	requireUsable(t, c, mustCreate(t, c, types.KeySpecEccNistEdwards25519))
	_, err = create(t, c, types.KeySpecEccNistP256)
	requireAPIError(t, err, "UnsupportedOperationException",
		"KeySpec ECC_NIST_P256 is not supported by the token: P-256 key pairs, generation: C_GenerateKeyPair: CKR_MECHANISM_INVALID.")
	_, err = create(t, c, types.KeySpecHmac384)
	requireCode(t, err, "UnsupportedOperationException") // although it was made, says the store
	require.NoError(t, c.bridge.Health(t.Context()))
}
