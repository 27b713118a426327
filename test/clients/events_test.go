package clients

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// event is one of LookupEvents, as programs print it.
type event struct {
	EventID         string `json:"EventId"`
	EventName       string
	EventSource     string
	ReadOnly        string
	Username        string
	AccessKeyID     string `json:"AccessKeyId"`
	CloudTrailEvent string
	Resources       []struct{ ResourceName, ResourceType string }
}

// audited is a server with an audit log in files, a key, and the access key of a user who may make MACs and look up events.
func audited(t *testing.T) (srv *kmstest.Server, key string, env []string) {
	t.Helper()
	log, err := audit.Open(filepath.Join(t.TempDir(), "audit"), audit.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	srv = kmstest.NewServer(t, kmstest.Configure(func(cfg *pkcs11kms.Config) { cfg.Audit, cfg.Quotas.NoRates = log, true }))
	key = newKey(t, inProcess(t, srv), types.KeySpecHmac256)
	directory, alice := srv.Bridge().IAM().As(srv.Bridge().Root()), iam.PrincipalName{Type: keystore.PrincipalUser, Name: "alice"}
	_, err = directory.CreatePrincipal(t.Context(), alice, iam.PrincipalOptions{})
	require.NoError(t, err)
	require.NoError(t, directory.PutPrincipalPolicy(t.Context(), alice, "p", `{"Version": "2012-10-17", "Statement": {"Effect": "Allow",
		"Action": ["kms:GenerateMac", "cloudtrail:LookupEvents"], "Resource": "*"}}`))
	signing, err := directory.CreateAccessKey(t.Context(), alice)
	require.NoError(t, err)
	return srv, key, environment(t, "AWS_ACCESS_KEY_ID="+signing.ID, "AWS_SECRET_ACCESS_KEY="+signing.Secret, "AWS_REGION="+srv.Region,
		"AWS_DEFAULT_REGION="+srv.Region, "ENDPOINT="+srv.URL, "AWS_EC2_METADATA_DISABLED=true")
}

// run runs a program to its end, and returns what it prints.
func run(t *testing.T, env []string, program string, args ...string) []byte {
	t.Helper()
	out, err := process(t, env, program, args...).Output()
	if exit, ok := err.(*exec.ExitError); ok {
		t.Fatalf("%s: %v\n%s", program, err, exit.Stderr)
	}
	require.NoError(t, err)
	return out
}

// A MAC that a boto3 program has made is found by key and by user, by boto3 and by the aws CLI.
func TestLookupEvents(t *testing.T) {
	srv, key, env := audited(t)
	script, err := filepath.Abs("events.py")
	require.NoError(t, err)
	uses := 0
	for dec := json.NewDecoder(bytes.NewReader(run(t, env, boto3.find(t), script, key, "alice"))); dec.More(); {
		var e event
		require.NoError(t, dec.Decode(&e))
		if e.EventName == "GenerateMac" {
			uses++
			requireUse(t, e, key, "Boto3/")
		}
	}
	require.Equal(t, 2, uses, "by key, and by user")

	if testing.Short() {
		return // each call of the aws CLI takes most of a second
	}
	aws := awsCLI.find(t)
	for _, attribute := range []string{"ResourceName,AttributeValue=" + key, "Username,AttributeValue=alice",
		"EventName,AttributeValue=GenerateMac"} {
		var page struct{ Events []event }
		out := run(t, env, aws, "cloudtrail", "lookup-events", "--endpoint-url", srv.URL, "--output", "json", "--lookup-attributes",
			"AttributeKey="+attribute, "--start-time", time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), "--max-items", "100")
		require.NoError(t, json.Unmarshal(out, &page))
		found := false
		for _, e := range page.Events {
			if e.EventName == "GenerateMac" {
				found = true
				requireUse(t, e, key, "Boto3/")
			}
		}
		require.True(t, found, attribute)
	}
	out, err := process(t, env, aws, "cloudtrail", "lookup-events", "--endpoint-url", srv.URL, "--lookup-attributes",
		"AttributeKey=Username,AttributeValue=a", "AttributeKey=ReadOnly,AttributeValue=true").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "An error occurred (InvalidLookupAttributesException) when calling the LookupEvents operation")
	out, err = process(t, env, aws, "cloudtrail", "describe-trails", "--endpoint-url", srv.URL).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "UnknownOperationException")
	require.Contains(t, string(out), "answers LookupEvents of AWS CloudTrail only")
}

func requireUse(t *testing.T, e event, key, agent string) {
	t.Helper()
	require.Equal(t, []string{"kms.amazonaws.com", "true", "alice"}, []string{e.EventSource, e.ReadOnly, e.Username})
	require.Len(t, e.Resources, 1)
	require.True(t, strings.HasSuffix(e.Resources[0].ResourceName, key))
	require.Equal(t, "AWS::KMS::Key", e.Resources[0].ResourceType)
	var record struct {
		EventID, UserAgent string
		UserIdentity       struct{ AccessKeyID, UserName string }
	}
	require.NoError(t, json.Unmarshal([]byte(e.CloudTrailEvent), &record))
	require.Equal(t, []string{e.EventID, e.AccessKeyID, "alice"}, []string{record.EventID, record.UserIdentity.AccessKeyID,
		record.UserIdentity.UserName})
	require.Contains(t, record.UserAgent, agent)
}
