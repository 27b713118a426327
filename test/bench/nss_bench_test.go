package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/softhsm"
)

// BenchmarkNSS measures a token that takes next to no time, so that what is around it shows. test/tokens/nss.sh makes the token and runs
// this; see docs/performance.md.
func BenchmarkNSS(b *testing.B) {
	module, pinFile := os.Getenv("TOKEN_MODULE"), os.Getenv("TOKEN_PIN_FILE")
	if !strings.HasPrefix(os.Getenv("TOKEN_VERSION"), "libnss3 ") {
		b.Skip("runs on the token that test/tokens/nss.sh makes: make bench")
	}
	tok := softhsm.TestToken{Token: softhsm.Token{Module: module, Label: os.Getenv("TOKEN_LABEL")}, PINFile: pinFile}
	r := rigOn(b, tok, filepath.Join(b.TempDir(), "nss"), 0)
	b.Cleanup(func() { require.NoError(b, r.bridge.Close()) })
	restricted := r.as(b, tenStatements(r.keyID))
	ctx := context.Background()
	root := func() error { return r.mac(ctx, r.client) }
	for _, goroutines := range []int{1, 16} {
		b.Run(fmt.Sprintf("GenerateMac/root/%d", goroutines), func(b *testing.B) {
			compare(b, goroutines, root, map[string]rival{"C": r.inC(message32)})
		})
		b.Run(fmt.Sprintf("GenerateMac/ten-statements/%d", goroutines), func(b *testing.B) {
			compare(b, goroutines, func() error { return r.mac(ctx, restricted) }, map[string]rival{"C": r.inC(message32), "root": each(root)})
		})
	}
}

// as returns the client of a user with a policy.
func (r *rig) as(b *testing.B, policy string) *pkcs11kms.Client {
	ctx := context.Background()
	users := r.bridge.IAM().As(r.bridge.Root())
	name := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "restricted"}
	made, err := users.CreatePrincipal(ctx, name, iam.PrincipalOptions{})
	require.NoError(b, err)
	require.NoError(b, users.PutPrincipalPolicy(ctx, name, "ten", policy))
	caller, err := r.bridge.Caller(ctx, made.ARN)
	require.NoError(b, err)
	return r.client.As(caller)
}

// tenStatements is a policy as somebody has who may do some things with some keys, under conditions. The last one allows the MAC.
func tenStatements(keyID string) string {
	var statements []string
	for i := range 9 {
		statements = append(statements, fmt.Sprintf(`{"Sid":"Some%d","Effect":"Allow","Action":["kms:Sign","kms:Describe*"],`+
			`"Resource":"arn:aws:kms:*:*:key/%08d-*","Condition":{"StringEquals":{"aws:ResourceTag/team":"team%d"}}}`, i, i, i))
	}
	statements = append(statements, fmt.Sprintf(`{"Sid":"This","Effect":"Allow","Action":["kms:GenerateMac","kms:VerifyMac"],`+
		`"Resource":"arn:aws:kms:*:*:key/%s","Condition":{"StringEquals":{"kms:MacAlgorithm":"HMAC_SHA_256"}}}`, keyID))
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}
