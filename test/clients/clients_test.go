// Package clients holds the server to what real clients of AWS KMS expect: the aws command line, boto3, the AWS SDKs for
// Go and JavaScript, and pkcs11kms itself with --endpoint-url. All of them are driven by the same tables.
package clients

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// members are the input or the output of an operation as JSON has them. Binary members are base64.
type members = map[string]any

// target says where a request goes, and who signs it.
type target struct {
	Endpoint  string `json:"endpoint"`
	Region    string `json:"region"`
	AccessKey string `json:"accessKey"`
	Secret    string `json:"secret"`
}

func targetOf(srv *kmstest.Server) target {
	return target{Endpoint: srv.URL, Region: srv.Region, AccessKey: srv.AccessKeyID, Secret: srv.SecretAccessKey()}
}

// command is one operation for a client.
type command struct {
	Target    target  `json:"target"`
	Operation string  `json:"operation"`
	Input     members `json:"input"`
}

// answer is what the client told the program that uses it.
type answer struct {
	Output  members  `json:"output"`
	Refusal *refusal `json:"refusal"`
	Unknown bool     `json:"unknown"` // the client is older than the operation, or than a member of its input
}

// refusal is an error of the service. Class is the most special class that the client's documentation tells programs to
// catch; command lines have none.
type refusal struct {
	Class   string `json:"class"`
	Code    string `json:"code"`
	Message string `json:"message"`
	Status  int    `json:"status"` // 0 where the client does not tell
}

// client is a client of the API, ready to use.
type client struct {
	call func(command) (answer, error)
	// model returns the operations that the client has, as its own model of the API says.
	model func(*testing.T, target) []string
	// generic is the class of errors that the API model does not have. Empty: the client has no classes.
	generic string
	// followsClock: the client compares its clock with the server's and signs again.
	followsClock bool
}

// patience is for what ends soon unless something is broken.
const patience = 5 * time.Minute

// clients make each client, or skip the test when it is missing.
var clients = []struct {
	name string
	make func(*testing.T) client
}{
	{"aws-cli", newAWSCLI},
	{"boto3", newBoto3},
	{"go", newGoSDK},
	{"javascript", newJavaScript},
	{"pkcs11kms", newOwnCommand},
}

// onEachClient runs a test for each client. Tests of several clients run at once, each with a client of its own.
func onEachClient(t *testing.T, test func(*testing.T, client)) {
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.name == "aws-cli" {
				t.Skip("each of its calls takes most of a second")
			}
			t.Parallel()
			test(t, c.make(t))
		})
	}
}

// do runs an operation to its answer, whatever that is.
func (c client) do(t *testing.T, to target, operation string, input members) answer {
	t.Helper()
	got, err := c.call(command{Target: to, Operation: operation, Input: input})
	require.NoError(t, err, operation)
	if noted, ok := secretsOf.Load(to.Endpoint); ok {
		noted.(*unwritten).note(operation, input)
		noted.(*unwritten).note(operation, got.Output)
	}
	return got
}

// must runs an operation that succeeds.
func (c client) must(t *testing.T, to target, operation string, input members) members {
	t.Helper()
	got := c.do(t, to, operation, input)
	require.Nil(t, got.Refusal, operation)
	require.False(t, got.Unknown, operation)
	return got.Output
}

// refused checks an error: its code, its class, its status, and its text if any is given.
func (c client) refused(t *testing.T, got answer, code, text string) {
	t.Helper()
	require.NotNil(t, got.Refusal, "the operation succeeded")
	require.Equal(t, code, got.Refusal.Code)
	require.Contains(t, got.Refusal.Message, text)
	if c.generic == "" {
		return
	}
	class := c.generic
	if modelled[code] != nil {
		class = code
	}
	require.Equal(t, class, got.Refusal.Class)
	require.Equal(t, 400, got.Refusal.Status)
}

// inProcess is the library's own client on the server's Bridge.
func inProcess(t *testing.T, srv *kmstest.Server) *pkcs11kms.Client {
	t.Helper()
	c, err := srv.Bridge().Client(srv.Region)
	require.NoError(t, err)
	return c.As(srv.Bridge().Root())
}

func newKey(t *testing.T, c *pkcs11kms.Client, spec types.KeySpec) (arn string) {
	t.Helper()
	out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: "GENERATE_VERIFY_MAC"})
	require.NoError(t, err)
	return *out.KeyMetadata.Arn
}

// environment is all that a client's process knows of its surroundings: nothing of the developer's own AWS configuration.
func environment(t *testing.T, more ...string) []string {
	home := t.TempDir()
	return append([]string{
		"HOME=" + home,
		"PATH=" + os.Getenv("PATH"),
		"LANG=C.UTF-8",
		"AWS_CONFIG_FILE=" + filepath.Join(home, "config"),
		"AWS_SHARED_CREDENTIALS_FILE=" + filepath.Join(home, "credentials"),
		"AWS_EC2_METADATA_DISABLED=true",
	}, more...)
}

// process makes a command that is killed when it does not end in time.
func process(t *testing.T, env []string, name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	return cmd
}
