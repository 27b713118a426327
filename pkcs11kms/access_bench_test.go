package pkcs11kms

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/guard"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// tenStatements is a key policy of ten statements, of which the last allows a principal GenerateMac, under conditions that
// must be looked at.
func tenStatements(principal string) string {
	var statements []string
	for i := range 8 {
		statements = append(statements, fmt.Sprintf(`{"Sid":"%d","Effect":"Deny","Principal":"*","Resource":"*",
			"Action":["kms:Generate*","kms:Verify*"],
			"Condition":{"StringLike":{"aws:PrincipalArn":"arn:aws:iam::*:role/Other%d*"},
			"StringNotEquals":{"kms:MacAlgorithm":["HMAC_SHA_256","HMAC_SHA_384"]}}}`, i, i))
	}
	statements = append(statements, `{"Sid":"last","Effect":"Allow","Principal":{"AWS":"`+principal+`"},
		"Action":"kms:GenerateMac","Resource":"*",
		"Condition":{"StringEquals":{"kms:MacAlgorithm":"HMAC_SHA_256","kms:KeySpec":"HMAC_256"},
		"DateLessThan":{"aws:CurrentTime":"2120-01-01T00:00:00Z"}}}`)
	return keyPolicy(statements...)
}

// BenchmarkAuthorisation is the price of ten statements: GenerateMac by a role under such a policy, and by root under the
// default one, call by call in turn, and what the decision alone takes.
func BenchmarkAuthorisation(b *testing.B) {
	root := newClient(b)
	role := as(b, root, roleName("producer"))
	plain, guarded := mustCreate(b, root, types.KeySpecHmac256), mustCreate(b, root, types.KeySpecHmac256)
	putPolicy(b, root, guarded.KeyId, tenStatements(role.caller.ARN()))
	message := make([]byte, 32)
	timed := func(c *Client, key *types.KeyMetadata) time.Duration {
		began := time.Now()
		_, err := generate(b.Context(), c, key.KeyId, message)
		took := time.Since(began)
		require.NoError(b, err)
		return took
	}
	var base, ten, decision time.Duration
	req := request{keyID: guarded.KeyId, algorithm: types.MacAlgorithmSpecHmacSha256}
	for b.Loop() {
		base += timed(root, plain)
		ten += timed(role, guarded)
		began := time.Now()
		asked := &call{Client: role, op: ops.GenerateMac, req: req}
		err := asked.Check()
		if err == nil {
			err = guard.MayStill(b.Context(), asked.op, asked)
		}
		decision += time.Since(began)
		require.NoError(b, err)
	}
	perOp := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 / float64(b.N) }
	b.ReportMetric(perOp(base), "us/default-policy")
	b.ReportMetric(perOp(ten), "us/ten-statements")
	b.ReportMetric(perOp(ten-base), "us-added")
	b.ReportMetric(perOp(decision), "us/decision")
}
