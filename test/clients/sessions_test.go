package clients

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

const makerARN = "arn:aws:iam::000000000000:role/jwt/Maker"

// newMaker makes a role that may use keys, and a user that it trusts; it returns the user's access key.
func newMaker(t *testing.T, srv *kmstest.Server) iam.AccessKey {
	t.Helper()
	root := srv.Bridge().IAM().As(srv.Bridge().Root())
	bob := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "Bob"}
	_, err := root.CreatePrincipal(t.Context(), bob, iam.PrincipalOptions{})
	require.NoError(t, err)
	maker := iam.PrincipalName{Type: keystore.PrincipalRole, Name: "Maker"}
	_, err = root.CreatePrincipal(t.Context(), maker, iam.PrincipalOptions{Path: "/jwt/", TrustPolicy: `{"Version": "2012-10-17",
		"Statement": {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:user/Bob"}, "Action": "sts:*"}}`})
	require.NoError(t, err)
	require.NoError(t, root.PutPrincipalPolicy(t.Context(), maker, "own",
		`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}`))
	key, err := root.CreateAccessKey(t.Context(), bob)
	require.NoError(t, err)
	return key
}

// bobEnv is what a program needs that works as the user.
func bobEnv(t *testing.T, srv *kmstest.Server, key iam.AccessKey, more ...string) []string {
	return environment(t, append([]string{"AWS_ACCESS_KEY_ID=" + key.ID, "AWS_SECRET_ACCESS_KEY=" + key.Secret, "AWS_REGION=" + srv.Region,
		"AWS_DEFAULT_REGION=" + srv.Region, "ENDPOINT=" + srv.URL}, more...)...)
}

// profiles writes the configuration of the aws CLI and the SDKs for a role that a user assumes: nothing in it but the endpoint is ours.
func profiles(t *testing.T, srv *kmstest.Server, key iam.AccessKey) (path string) {
	t.Helper()
	where := "region = " + srv.Region + "\nendpoint_url = " + srv.URL + "\n"
	path = filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(path, []byte("[profile bob]\n"+where+"aws_access_key_id = "+key.ID+"\naws_secret_access_key = "+key.Secret+
		"\n\n[profile maker]\n"+where+"role_arn = "+makerARN+"\nsource_profile = bob\nrole_session_name = at-work\n"), 0o600))
	return path
}

func TestSessionsByBoto3(t *testing.T) {
	srv := newServer(t)
	bob := newMaker(t, srv)
	script, err := filepath.Abs("sessions.py")
	require.NoError(t, err)
	const arn = "arn:aws:sts::000000000000:assumed-role/Maker/boto"
	require.JSONEq(t, `{"arn": "`+arn+`", "user": "`+arn+`", "source": "bob", "packed": true, "mac": 32, "refused": "AccessDeniedException",
		"altered": "InvalidClientTokenId"}`,
		string(run(t, bobEnv(t, srv, bob), boto3.find(t), script, newKey(t, inProcess(t, srv), types.KeySpecHmac256), makerARN)))
}

func TestSessionsByTheAWSCLI(t *testing.T) {
	if testing.Short() {
		t.Skip("each of its calls takes most of a second")
	}
	srv := newServer(t)
	bob := newMaker(t, srv)
	cli := awsCLI.find(t)
	var made struct {
		Credentials struct{ AccessKeyId, SecretAccessKey, SessionToken string }
	}
	text := run(t, bobEnv(t, srv, bob), cli, "sts", "assume-role", "--role-arn", makerARN, "--role-session-name", "cli",
		"--endpoint-url", srv.URL, "--output", "json")
	require.NoError(t, json.Unmarshal(text, &made))
	session := iam.AccessKey{ID: made.Credentials.AccessKeyId, Secret: made.Credentials.SecretAccessKey}
	env := bobEnv(t, srv, session, "AWS_SESSION_TOKEN="+made.Credentials.SessionToken)
	who := run(t, env, cli, "sts", "get-caller-identity", "--endpoint-url", srv.URL, "--query", "Arn", "--output", "text")
	assert.Equal(t, "arn:aws:sts::000000000000:assumed-role/Maker/cli\n", string(who))
	run(t, env, cli, "kms", "list-keys", "--endpoint-url", srv.URL)
}

// knowsEndpoints tells whether an aws CLI takes endpoint_url from a profile: from 1.29 and 2.13 on.
func knowsEndpoints(t *testing.T, program string) bool {
	out, err := exec.CommandContext(t.Context(), program, "--version").Output()
	m := regexp.MustCompile(`^aws-cli/([12])\.(\d+)`).FindStringSubmatch(string(out))
	if err != nil || m == nil {
		return false
	}
	minor, _ := strconv.Atoi(m[2])
	return minor >= map[string]int{"1": 29, "2": 13}[m[1]]
}

// A profile of the aws CLI with role_arn and source_profile works as it is.
func TestProfileWithARoleByTheAWSCLI(t *testing.T) {
	cli, err := exec.LookPath("aws")
	if err != nil || !knowsEndpoints(t, cli) {
		t.Skip("the aws CLI in PATH takes no endpoint from a profile")
	}
	srv := newServer(t)
	path := profiles(t, srv, newMaker(t, srv))
	home := t.TempDir() // where the CLI keeps sessions: an earlier one's is not to be found
	env := environment(t, "AWS_PROFILE=maker", "AWS_CONFIG_FILE="+path, "PYENV_VERSION="+os.Getenv("PYENV_VERSION"),
		"PYENV_ROOT="+filepath.Join(os.Getenv("HOME"), ".pyenv"), "HOME="+home)
	who := run(t, env, cli, "sts", "get-caller-identity", "--query", "Arn", "--output", "text")
	assert.Equal(t, "arn:aws:sts::000000000000:assumed-role/Maker/at-work\n", string(who))
	run(t, env, cli, "kms", "list-keys")
}

// The Go SDK's stscreds, which programs give their configuration.
func TestSessionsByTheGoSDK(t *testing.T) {
	srv := newServer(t)
	bob := newMaker(t, srv)
	connections := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(connections.CloseIdleConnections)
	cfg := aws.Config{Region: srv.Region, BaseEndpoint: &srv.URL, HTTPClient: connections,
		Credentials: credentials.NewStaticCredentialsProvider(bob.ID, bob.Secret, "")}
	assumed := cfg.Copy()
	assumed.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), makerARN))
	key := newKey(t, inProcess(t, srv), types.KeySpecHmac256)
	in := &kms.GenerateMacInput{KeyId: &key, Message: []byte("m"), MacAlgorithm: types.MacAlgorithmSpecHmacSha256}
	out, err := kms.NewFromConfig(assumed).GenerateMac(t.Context(), in)
	require.NoError(t, err)
	require.Len(t, out.Mac, 32)
	_, err = kms.NewFromConfig(cfg).GenerateMac(t.Context(), in)
	require.Error(t, err, "the user by itself")
}
