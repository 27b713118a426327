package clients

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// rootEnv is what a program needs that works as the account's root.
func rootEnv(t *testing.T, srv *kmstest.Server) []string {
	return environment(t, "AWS_ACCESS_KEY_ID="+srv.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+srv.SecretAccessKey(), "AWS_REGION="+srv.Region,
		"AWS_DEFAULT_REGION="+srv.Region, "ENDPOINT="+srv.URL, "AWS_EC2_METADATA_DISABLED=true")
}

// boto3 makes roles and users with policies and access keys, which count at once, and has IAM's own classes for errors.
func TestIdentitiesByBoto3(t *testing.T) {
	srv := newServer(t, kmstest.Region("eu-west-1"))
	key := newKey(t, inProcess(t, srv), types.KeySpecHmac256)
	script, err := filepath.Abs("identity.py")
	require.NoError(t, err)
	const arn = "arn:aws:iam::000000000000:"
	require.JSONEq(t, `{"identity": "`+arn+`root",
		"role": ["`+arn+`role/jwt/Maker", true, [{"Key": "Team", "Value": "id"}], 3600], "policy": ["kms:GenerateMac"],
		"users": ["a", "b", "Bob", "c"], "mac": 32, "bob": "`+arn+`user/Bob", "roles": [],
		"by group": 32, "members": ["Bob"], "entities": ["Ops"], "managed": ["v2", "v2", 1, [{"Key": "Team", "Value": "id"}]],
		"version": ["kms:VerifyMac"], "policies": [], "refused": [["ClientError", "AccessDeniedException"],
			["DeleteConflictException", "DeleteConflict"], ["NoSuchEntityException", "NoSuchEntity"]],
		"errors": [["ClientError", "AccessDenied"], ["DeleteConflictException", "DeleteConflict"],
			["NoSuchEntityException", "NoSuchEntity"], ["EntityAlreadyExistsException", "EntityAlreadyExists"]]}`,
		string(run(t, rootEnv(t, srv), boto3.find(t), script, key)))
}

// The aws command line, whose signatures are for the region of its configuration.
func TestIdentitiesByTheAWSCLI(t *testing.T) {
	if testing.Short() {
		t.Skip("each of its calls takes most of a second")
	}
	srv := newServer(t)
	aws, env := awsCLI.find(t), rootEnv(t, srv)
	call := func(out any, args ...string) {
		t.Helper()
		text := run(t, env, aws, append(args, "--endpoint-url", srv.URL, "--output", "json")...)
		if out != nil {
			require.NoError(t, json.Unmarshal(text, out), "%s", text)
		}
	}
	var who struct{ UserId, Account, Arn string }
	call(&who, "sts", "get-caller-identity")
	assert.Equal(t, "arn:aws:iam::000000000000:root", who.Arn)
	assert.Equal(t, who.Account, who.UserId)
	const trust = `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}`
	call(nil, "iam", "create-role", "--role-name", "Maker", "--assume-role-policy-document", trust)
	var roles struct {
		Roles []struct {
			RoleName                 string
			AssumeRolePolicyDocument map[string]any
		}
	}
	call(&roles, "iam", "list-roles")
	require.Len(t, roles.Roles, 1)
	assert.Equal(t, "2012-10-17", roles.Roles[0].AssumeRolePolicyDocument["Version"])
	out, err := process(t, env, aws, "iam", "create-account-alias", "--account-alias", "abc", "--endpoint-url", srv.URL).CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "An error occurred (InvalidAction) when calling the CreateAccountAlias operation: Could not find "+
		"operation CreateAccountAlias for version 2010-05-08")
	const document = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*"}}`
	var made struct{ Policy struct{ Arn string } }
	call(&made, "iam", "create-policy", "--policy-name", "List", "--policy-document", document)
	call(nil, "iam", "attach-role-policy", "--role-name", "Maker", "--policy-arn", made.Policy.Arn)
	var attached struct {
		AttachedPolicies []struct{ PolicyArn string }
	}
	call(&attached, "iam", "list-attached-role-policies", "--role-name", "Maker")
	require.Len(t, attached.AttachedPolicies, 1)
	assert.Equal(t, made.Policy.Arn, attached.AttachedPolicies[0].PolicyArn)
	call(nil, "iam", "detach-role-policy", "--role-name", "Maker", "--policy-arn", made.Policy.Arn)
	call(nil, "iam", "delete-policy", "--policy-arn", made.Policy.Arn)
	call(nil, "iam", "delete-role", "--role-name", "Maker")
}
