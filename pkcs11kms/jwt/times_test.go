package jwt_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// TestTimesThatNobodyCanMean: a token that is expired before it is made, or has its times in milliseconds, is signed only for a
// caller who says so.
func TestTimesThatNobodyCanMean(t *testing.T) {
	f, c := newFixture(t), newClock()
	c.pass(500 * time.Millisecond)
	key := f.newKey("HMAC_256")
	now, milli := c.Now().Unix(), c.Now().UnixMilli()
	sign := func(claims string, cfg jwt.SignerConfig) error {
		cfg.Client, cfg.KeyID, cfg.Now = f.remote, key, c.Now
		signer, err := jwt.NewSigner(cfg)
		require.NoError(t, err)
		_, err = signer.Sign(t.Context(), json.RawMessage(claims))
		return err
	}
	for _, fine := range []string{
		`{}`, fmt.Sprintf(`{"exp":%d}`, now+1), fmt.Sprintf(`{"exp":%d.75}`, now), `{"exp":253402300799}`, `{"nbf":253402300799}`,
		fmt.Sprintf(`{"exp":%d,"nbf":%d,"iat":%d}`, now+10, now+9, now+20), `{"nbf":0,"iat":0}`, fmt.Sprintf(`{"EXP":%d}`, milli),
		`{"apps":{"exp":1}}`,
	} {
		require.NoError(t, sign(fine, jwt.SignerConfig{}), fine)
	}
	for _, bad := range []string{
		`{"exp":1}`, fmt.Sprintf(`{"exp":%d}`, now), fmt.Sprintf(`{"exp":%d.5}`, now), `{"exp":253402300800}`, fmt.Sprintf(`{"exp":%d}`, milli),
		fmt.Sprintf(`{"nbf":%d}`, milli), fmt.Sprintf(`{"iat":%d}`, milli), fmt.Sprintf(`{"exp":%d,"nbf":%d}`, now+10, now+10),
	} {
		err := sign(bad, jwt.SignerConfig{})
		require.ErrorIs(t, err, jwt.ErrClaims, bad)
		require.ErrorIs(t, err, jwt.ErrTimes, bad)
		require.NoError(t, sign(bad, jwt.SignerConfig{AllowAnyTimes: true}), bad)
	}
	hour := jwt.SignerConfig{Lifetime: time.Hour}
	require.NoError(t, sign(fmt.Sprintf(`{"nbf":%d}`, now+3599), hour))
	require.ErrorIs(t, sign(fmt.Sprintf(`{"nbf":%d}`, now+3600), hour), jwt.ErrTimes)
	require.ErrorIs(t, sign(fmt.Sprintf(`{"iat":%d}`, milli), hour), jwt.ErrTimes)
	err := sign(`{"exp":"soon"}`, jwt.SignerConfig{AllowAnyTimes: true})
	require.ErrorIs(t, err, jwt.ErrClaims, "which is no time at all")
}
