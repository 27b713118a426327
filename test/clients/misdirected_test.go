package clients

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
	"github.com/pkcs11kms/bridge/pkcs11kms/server"
)

// TestOtherServices: whoever sends another service's requests to the server, as AWS_ENDPOINT_URL does with all of them, reads
// why that cannot work, in each protocol of AWS.
func TestOtherServices(t *testing.T) {
	srv := newServer(t, kmstest.ConfigureServer(func(o *server.Options) { o.Services = nil }))
	to := targetOf(srv)
	const only = "This endpoint answers AWS KMS only: "
	for arguments, want := range map[string]struct{ code, operation, message string }{
		"sts get-caller-identity":   {"InvalidAction", "GetCallerIdentity", only + "GetCallerIdentity of sts is not here."},
		"iam list-users":            {"InvalidAction", "ListUsers", only + "ListUsers of iam is not here."},
		"ec2 describe-regions":      {"InvalidAction", "DescribeRegions", only + "DescribeRegions of ec2 is not here."},
		"s3api list-buckets":        {"InvalidAction", "ListBuckets", only + "GET / of s3 is not here."},
		"route53 list-hosted-zones": {"InvalidAction", "ListHostedZones", only + "GET /2013-04-01/hostedzone of route53 is not here."},
		"lambda list-functions": {"UnknownOperationException", "ListFunctions",
			only + "GET /2015-03-31/functions/ of lambda is not here."},
		"dynamodb list-tables": {"UnknownOperationException", "ListTables",
			only + "DynamoDB_20120810.ListTables of dynamodb is not here."},
		"kms list-keys --region nowhere-9": {"InvalidSignatureException", "ListKeys",
			"Credential should be scoped to a valid region. This endpoint answers for " + srv.Region + "."},
	} {
		t.Run(arguments, func(t *testing.T) {
			t.Parallel()
			env := environment(t, "AWS_ACCESS_KEY_ID="+to.AccessKey, "AWS_SECRET_ACCESS_KEY="+to.Secret, "AWS_REGION="+srv.Region)
			out, err := process(t, env, awsCLI.find(t), append(strings.Fields(arguments), "--endpoint-url", srv.URL)...).CombinedOutput()
			require.Error(t, err)
			require.Contains(t, string(out), "("+want.code+") when calling the "+want.operation+" operation: "+want.message)
		})
	}
}
