package test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// A server whose token hangs ends with a code of its own where it was told so, and the service manager starts another.
func TestServeEndsWhenItsTokenHangs(t *testing.T) {
	tok := softhsm.NewToken(t)
	m := faultp11.New(t, tok.Module)
	tok.Module = m.Path
	d := newStateDirOn(t, tok)
	config, err := os.OpenFile(filepath.Join(d.path, "config.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = config.WriteString("sessions: 1\ncall-timeout: 1s\n")
	require.NoError(t, err)
	require.NoError(t, config.Close())
	keyID := d.createKey(t)
	var made struct {
		AccessKey struct{ AccessKeyId, SecretAccessKey string }
	}
	d.must(t, &made, "iam", "create-access-key")

	served := startFlooded(t, d, 1024, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--on-hang", "exit", "--hang-time", "1s")
	client, end := served.sdk(made.AccessKey.AccessKeyId, made.AccessKey.SecretAccessKey, true, 1)
	defer end()
	input := macInput(keyID, types.MacAlgorithmSpecHmacSha256, []byte("message"))
	_, err = client.GenerateMac(t.Context(), input)
	require.NoError(t, err)
	m.In(served.cmd.Process.Pid).Do("on C_SignInit hang")
	_, err = client.GenerateMac(t.Context(), input)
	var unavailable *types.KeyUnavailableException
	require.ErrorAs(t, err, &unavailable, "it is answered in time")
	served.drained.Wait()
	require.Error(t, served.cmd.Wait())
	require.Equal(t, 4, served.cmd.ProcessState.ExitCode(), "%s", served.log)
	require.Contains(t, served.log.String(), "hangs: C_Sign has not come back since ")
}
