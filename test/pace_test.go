package test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// A server whose token takes long for a MAC gives Go more processors, so that calls that wait in the token hold up no others.
func TestServeGivesSlowTokensProcessors(t *testing.T) {
	if os.Getenv("GOMAXPROCS") != "" {
		t.Skip("GOMAXPROCS is set, which a server respects")
	}
	tok := softhsm.NewToken(t)
	m := faultp11.New(t, tok.Module)
	tok.Module = m.Path
	d := newStateDirOn(t, tok)
	keyID := d.createKey(t)
	var made struct {
		AccessKey struct{ AccessKeyId, SecretAccessKey string }
	}
	d.must(t, &made, "iam", "create-access-key")
	served := startFlooded(t, d, 1024, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	m.In(served.cmd.Process.Pid).Do("on C_Sign delay 5ms")
	client, end := served.sdk(made.AccessKey.AccessKeyId, made.AccessKey.SecretAccessKey, true, 1)
	defer end()
	input := macInput(keyID, types.MacAlgorithmSpecHmacSha256, []byte("message"))
	more := fmt.Sprintf("\ngo_sched_gomaxprocs_threads %d\n", max(min(4*runtime.NumCPU(), 32), runtime.NumCPU()))
	require.Eventually(t, func() bool {
		_, err := client.GenerateMac(t.Context(), input) // of which one in 64 is looked at
		require.NoError(t, err)
		_, metrics, err := served.page(t.Context(), "/metrics")
		require.NoError(t, err)
		return strings.Contains(metrics, more)
	}, patience, 1e6)
	_, metrics, err := served.page(t.Context(), "/metrics")
	require.NoError(t, err)
	require.Regexp(t, `pkcs11kms_token_mac_seconds\{region="us-east-1"\} 0\.00`, metrics)
}
