package jwt_test

import (
	"errors"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// requireDenied checks for AccessDeniedException.
func requireDenied(t *testing.T, err error) {
	t.Helper()
	var answer smithy.APIError
	require.True(t, errors.As(err, &answer), "%v", err)
	require.Equal(t, "AccessDeniedException", answer.ErrorCode())
}

// TestLeastPrivilege: each role may do what docs/jwt.md allows it, on one key. The names that the consumer is told are more
// than that: to it a name that is not there yet is like one that is not its business, and neither disturbs the others.
func TestLeastPrivilege(t *testing.T) {
	for spec, actions := range map[types.KeySpec][2]string{"HMAC_256": {"GenerateMac", "VerifyMac"},
		"ECC_NIST_P256": {"Sign", "GetPublicKey"}} {
		f, c := newFixture(t), newClock()
		key, other := f.newKey(spec), f.newKey(spec)
		f.point("alias/tokens", key)
		f.point("alias/tokens-previous", other)
		arn := arnOf(t, f.remote, key)
		producer := f.as("Producer", allow(arn, "", "DescribeKey", actions[0]))
		consumer := f.as("Consumer", allow(arn, "", "DescribeKey", actions[1]))

		token, err := jwt.Sign(t.Context(), producer, "alias/tokens", map[string]any{})
		require.NoError(t, err)
		v := f.verifier(jwt.VerifierConfig{Client: consumer, Now: c.Now}, "alias/tokens-next", "alias/tokens", "alias/tokens-previous")
		require.NoError(t, v.Verify(t.Context(), token, nil))
		err = v.Verify(t.Context(), f.sign(other, map[string]any{}), nil)
		requireInvalid(t, err, jwt.ErrUnknownKey)
		requireDenied(t, err)
		require.NotContains(t, err.Error(), other, "the error does not say which key an alias leads to")

		_, err = jwt.Sign(t.Context(), consumer, "alias/tokens", map[string]any{})
		requireDenied(t, err)
		_, err = jwt.Sign(t.Context(), producer, "alias/tokens-previous", map[string]any{})
		requireDenied(t, err)

		// Who may use none of the keys has examined nothing.
		for _, stranger := range []jwt.Client{producer, f.as("Stranger", allow(arn, "", actions[1]))} {
			err = f.verifier(jwt.VerifierConfig{Client: stranger}, "alias/tokens").Verify(t.Context(), token, nil)
			requireDenied(t, err)
			require.NotErrorIs(t, err, jwt.ErrInvalidToken)
		}
	}
}

// TestProducerHeldToAnAlias: a condition on the aliases of the key, which a producer meets whose calls name the key itself.
func TestProducerHeldToAnAlias(t *testing.T) {
	f, c := newFixture(t), newClock()
	old, next := f.newKey("ECC_NIST_P256"), f.newKey("ECC_NIST_P256")
	f.point("alias/tokens", old)
	condition := `, "Condition": {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/tokens"}}`
	producer := f.as("Producer", allow("*", condition, "DescribeKey", "Sign"))
	signer, err := jwt.NewSigner(jwt.SignerConfig{Client: producer, KeyID: "alias/tokens", Now: c.Now})
	require.NoError(t, err)
	for _, key := range []string{old, next} {
		f.point("alias/tokens", key)
		token, err := signer.Sign(t.Context(), map[string]any{})
		require.NoError(t, err, "at once, since the key that is known is not allowed any more")
		require.Equal(t, key, headerOf(t, token)["kid"])
	}
	_, err = jwt.Sign(t.Context(), producer, old, map[string]any{})
	requireDenied(t, err)

	byAlias := f.as("ByAlias", allow("*", `, "Condition": {"StringEquals": {"kms:RequestAlias": "alias/tokens"}}`, "DescribeKey", "Sign"))
	_, err = jwt.Sign(t.Context(), byAlias, "alias/tokens", map[string]any{})
	requireDenied(t, err) // which docs/jwt.md warns of
}
