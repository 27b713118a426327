package clients

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// The AWS SDK for JavaScript takes its credentials from a role by itself: by a profile with role_arn and source_profile, and by the token
// of a pod. It knows of this service by AWS_ENDPOINT_URL alone.
func TestSessionsByTheJavaScriptSDK(t *testing.T) {
	srv := newServer(t)
	key := newKey(t, inProcess(t, srv), types.KeySpecHmac256)
	script := javaScript(t, "sessions.mjs")
	for name, env := range map[string][]string{
		"profile": {"AWS_PROFILE=maker", "AWS_CONFIG_FILE=" + profiles(t, srv, newMaker(t, srv))},
		"pod":     {"AWS_WEB_IDENTITY_TOKEN_FILE=" + newPod(t, srv), "AWS_ROLE_ARN=" + podRoleARN, "AWS_ROLE_SESSION_NAME=pod"},
	} {
		t.Run(name, func(t *testing.T) {
			env := environment(t, append(env, "AWS_REGION="+srv.Region, "AWS_ENDPOINT_URL="+srv.URL)...)
			require.JSONEq(t, `{"mac": 32, "keyId": "`+key+`"}`, string(run(t, env, node.find(t), script, key)))
		})
	}
}
