package jwt_test

import (
	"context"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// refusing does not describe certain keys.
type refusing struct {
	jwt.Client
	errs map[string]error // by the name that is asked for
}

func (r refusing) DescribeKey(ctx context.Context, in *kms.DescribeKeyInput, o ...func(*kms.Options)) (*kms.DescribeKeyOutput, error) {
	if err := r.errs[*in.KeyId]; err != nil {
		return nil, err
	}
	return r.Client.DescribeKey(ctx, in, o...)
}

// TestOneDeniedAmongMissing: where no key is left and KMS did not allow one of them, nothing was examined, whichever of the names
// comes first.
func TestOneDeniedAmongMissing(t *testing.T) {
	f := newFixture(t)
	denied := &smithy.GenericAPIError{Code: "AccessDeniedException"}
	client := refusing{f.remote, map[string]error{"alias/denied": denied, "alias/missing": &types.NotFoundException{}}}
	token := f.sign(f.newKey("ECC_NIST_P256"), map[string]any{})
	for _, names := range [][]string{{"alias/denied", "alias/missing"}, {"alias/missing", "alias/denied"}} {
		err := f.verifier(jwt.VerifierConfig{Client: client}, names...).Verify(t.Context(), token, nil)
		require.ErrorIs(t, err, denied)
		require.NotErrorIs(t, err, jwt.ErrInvalidToken)
	}
}
