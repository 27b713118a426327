package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// cleanAWS makes the SDK find nothing of the developer's.
func cleanAWS(t *testing.T) (configFile string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION",
		"AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"} {
		t.Setenv(name, "")
	}
	configFile = filepath.Join(dir, "config")
	t.Setenv("HOME", dir)
	t.Setenv("AWS_CONFIG_FILE", configFile)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "credentials"))
	return configFile
}

func TestRemoteClientUsesTheAWSConfiguration(t *testing.T) {
	configFile := cleanAWS(t)
	require.NoError(t, os.WriteFile(configFile, []byte("[profile hsm]\nregion = eu-west-1\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\n"+
		"aws_secret_access_key = none\n\n[profile broken]\nregion = eu-west-1\ncredential_process = false\n"), 0o600))
	a := &app{endpoint: "http://127.0.0.1:1"}
	remoteClient := func() (*kms.Client, error) {
		cfg, err := a.awsConfig(t.Context())
		if err != nil {
			return nil, err
		}
		return a.remoteClient(t.Context(), cfg)
	}

	_, err := remoteClient()
	var usage *usageError
	require.ErrorAs(t, err, &usage, "no region")
	t.Setenv("AWS_REGION", "us-west-2")
	_, err = remoteClient()
	require.EqualError(t, err, "no AWS credentials are given")
	assert.Contains(t, hintOf(err), "iam create-access-key")

	t.Setenv("AWS_PROFILE", "hsm")
	client, err := remoteClient()
	require.NoError(t, err)
	assert.Equal(t, "us-west-2", client.Options().Region, "the environment wins over the profile")
	assert.Equal(t, a.endpoint, *client.Options().BaseEndpoint)
	a.region = "us-east-1"
	client, err = remoteClient()
	require.NoError(t, err)
	assert.Equal(t, "us-east-1", client.Options().Region, "the flag wins over both")

	t.Setenv("AWS_PROFILE", "broken")
	_, err = remoteClient()
	require.ErrorContains(t, err, "getting the AWS credentials: ")
	t.Setenv("AWS_PROFILE", "missing")
	_, err = remoteClient()
	require.ErrorContains(t, err, "reading the AWS configuration: ")
	assert.NotEmpty(t, hintOf(err))
}

// sent wraps a cause as the SDK does.
func sent(err error) error {
	return &smithy.OperationError{ServiceID: "KMS", OperationName: "ListKeys",
		Err: &smithyhttp.RequestSendError{Err: &url.Error{Op: "Post", URL: "http://host", Err: err}}}
}

func TestRemoteError(t *testing.T) {
	a := &app{endpoint: "http://host"}
	authentication := func(code string) error { return &smithy.GenericAPIError{Code: code, Fault: smithy.FaultClient} }
	for name, tc := range map[string]struct {
		err        error
		text, hint string // no text: the error itself
	}{
		"none":         {nil, "", ""},
		"own":          {usagef("x"), "", ""},
		"refused":      {&types.NotFoundException{Message: aws.String("x")}, "", ""},
		"unknown key":  {authentication("UnrecognizedClientException"), "", "list-access-keys"},
		"signature":    {authentication("InvalidSignatureException"), "", "clock"},
		"nobody there": {sent(syscall.ECONNREFUSED), `reaching "http://host": connection refused`, "whether the server runs"},
		"stranger": {sent(&tls.CertificateVerificationError{Err: errors.New("unknown")}),
			`reaching "http://host": tls: failed to verify certificate: unknown`, "AWS_CA_BUNDLE"},
		"no answer of KMS": {&smithy.OperationError{Err: errors.New("odd")}, `asking "http://host": odd`, "is this the URL"},
	} {
		t.Run(name, func(t *testing.T) {
			err := a.remoteError(tc.err)
			if tc.text != "" {
				assert.EqualError(t, err, tc.text)
			} else {
				assert.ErrorIs(t, err, tc.err)
			}
			if tc.hint == "" {
				assert.Equal(t, tc.err, err)
			} else {
				assert.Contains(t, hintOf(err), tc.hint)
			}
		})
	}
}

// TestNoUseAgain: a person is told at once where a repetition does not help, and the SDK decides on everything else.
func TestNoUseAgain(t *testing.T) {
	for _, err := range []error{syscall.ECONNREFUSED, http.ErrSchemeMismatch, &tls.CertificateVerificationError{}} {
		assert.Equal(t, aws.FalseTernary, noUseAgain(fmt.Errorf("sending: %w", sent(err))))
	}
	for _, err := range []error{syscall.ECONNRESET, &net.DNSError{}, &types.KMSInternalException{}} {
		assert.Equal(t, aws.UnknownTernary, noUseAgain(err))
	}
}

func TestCheckCredentials(t *testing.T) {
	given := aws.NewCredentialsCache(credentials.NewStaticCredentialsProvider("AKIAIOSFODNN7EXAMPLE", "none", ""))
	assert.NoError(t, checkCredentials(t.Context(), given))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	waiting := aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) { return aws.Credentials{}, ctx.Err() })
	assert.ErrorIs(t, checkCredentials(ctx, waiting), context.Canceled)
}
