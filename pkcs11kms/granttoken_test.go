package pkcs11kms

import (
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// describeWith describes a key with grant tokens.
func describeWith(t testing.TB, c *Client, keyID *string, tokens ...string) error {
	_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: keyID, GrantTokens: tokens})
	return err
}

// A token names a grant and gives nothing: grantee, key and operation count as without it.
func TestGrantTokensGiveNothing(t *testing.T) {
	c := newClient(t)
	key, other := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	grantee, stranger := as(t, c, userName("grantee")), as(t, c, userName("stranger"))
	made := mustGrant(t, c, grantInput(key.KeyId, grantee, opMAC))
	second := mustGrant(t, c, grantInput(key.KeyId, grantee, opMAC))
	require.NotEqual(t, made.GrantToken, second.GrantToken)
	with := func(c *Client, keyID *string, tokens ...string) error {
		_, err := c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: keyID, MacAlgorithm: types.MacAlgorithmSpecHmacSha256,
			Message: []byte("m"), GrantTokens: tokens})
		return err
	}
	require.NoError(t, with(grantee, key.KeyId, *made.GrantToken, *made.GrantToken, *second.GrantToken))
	require.NoError(t, with(grantee, key.KeyId))
	requireCode(t, with(stranger, key.KeyId, *made.GrantToken), "AccessDeniedException")
	requireCode(t, with(grantee, other.KeyId, *made.GrantToken), "AccessDeniedException")
	requireCode(t, describeWith(t, grantee, key.KeyId, *made.GrantToken), "AccessDeniedException")
	require.NoError(t, describeWith(t, c, other.KeyId, *made.GrantToken), "of another key, for somebody else: passed over")

	require.NoError(t, revoke(c, key.KeyId, made.GrantId))
	requireCode(t, with(grantee, key.KeyId, *made.GrantToken), "InvalidGrantTokenException")
	require.NoError(t, with(grantee, key.KeyId, *second.GrantToken))
	requireCode(t, with(grantee, key.KeyId, *second.GrantToken, *made.GrantToken), "InvalidGrantTokenException")
	require.NoError(t, retire(c, kms.RetireGrantInput{GrantToken: second.GrantToken}))
	requireCode(t, with(grantee, key.KeyId, *second.GrantToken), "AccessDeniedException")
	requireCode(t, retire(c, kms.RetireGrantInput{GrantToken: second.GrantToken}), "InvalidGrantTokenException")
}

// A token is of the grant's region and store.
func TestForeignGrantTokens(t *testing.T) {
	c, elsewhere := newClient(t), newClient(t)
	key, there := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, elsewhere, types.KeySpecHmac256)
	token := *mustGrant(t, elsewhere, grantInput(there.KeyId, elsewhere, opMAC)).GrantToken
	requireAPIError(t, describeWith(t, c, key.KeyId, token), "InvalidGrantTokenException", "The grant token is not valid.")
	requireCode(t, retire(c, kms.RetireGrantInput{GrantToken: &token}), "InvalidGrantTokenException")
	require.NoError(t, describeWith(t, elsewhere, there.KeyId, token))
}

// altered changes a token in one of the ways in which texts are changed.
func altered(token string, random *rand.Rand) string {
	b := []byte(token)
	at := random.IntN(len(b))
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/= \n\r\x00é"
	switch random.IntN(6) {
	case 0:
		b[at] = letters[random.IntN(len(letters))]
	case 1:
		b = append(b[:at:at], b[at+1:]...)
	case 2:
		b = append(b[:at:at], append([]byte{letters[random.IntN(len(letters))]}, b[at:]...)...)
	case 3:
		b = b[:at]
	case 4:
		b = append(b, b[:at+1]...)
	default: // the bytes behind the letters
		raw, _ := base64.RawURLEncoding.DecodeString(token)
		raw[random.IntN(len(raw))] ^= 1 << random.IntN(8)
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	return string(b)
}

// Of ten thousand altered tokens none is taken.
func TestAlteredGrantTokens(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	made, other := mustGrant(t, c, grantInput(key.KeyId, c, opMAC)), mustGrant(t, c, grantInput(key.KeyId, c, opMAC))
	require.NoError(t, describeWith(t, c, key.KeyId, *made.GrantToken))
	random := rand.New(rand.NewPCG(1, 2))
	tried := 0
	for tried < 10_000 {
		token := altered(*made.GrantToken, random)
		if token == *made.GrantToken || token == "" || !utf8.ValidString(token) { // which its form refuses
			continue
		}
		tried++
		requireCode(t, describeWith(t, c, key.KeyId, token), "InvalidGrantTokenException")
	}
	a, _ := base64.RawURLEncoding.DecodeString(*made.GrantToken)
	b, _ := base64.RawURLEncoding.DecodeString(*other.GrantToken)
	for i := 1 + accountBytes + 1; i < len(a); i++ { // halves of two tokens
		both := base64.RawURLEncoding.EncodeToString(append(a[:i:i], b[i:]...))
		requireCode(t, describeWith(t, c, key.KeyId, both), "InvalidGrantTokenException")
	}
	good := *made.GrantToken
	for _, token := range []string{good + "\n", "\n" + good, good + "=", strings.ToUpper(good)} {
		requireCode(t, describeWith(t, c, key.KeyId, token), "InvalidGrantTokenException")
		requireCode(t, retire(c, kms.RetireGrantInput{GrantToken: &token}), "InvalidGrantTokenException")
	}
	require.Len(t, grantsOn(t, c, key.KeyId), 2)
}

func FuzzGrantTokens(f *testing.F) {
	c := newClient(f)
	key := mustCreate(f, c, types.KeySpecHmac256)
	token := *mustGrant(f, c, grantInput(key.KeyId, c, opMAC)).GrantToken
	f.Add(token)
	f.Add(token[1:])
	f.Add(strings.Repeat("A", 124))
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, text string) {
		if text == "" || len(text) > 8192 || !utf8.ValidString(text) {
			return // by its form
		}
		err := describeWith(t, c, key.KeyId, text)
		if text == token {
			require.NoError(t, err)
			return
		}
		requireCode(t, err, "InvalidGrantTokenException")
	})
}
