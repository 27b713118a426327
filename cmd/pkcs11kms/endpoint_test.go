package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCheckEndpoint(t *testing.T) {
	for text, good := range map[string]bool{
		"http://127.0.0.1:4599": true, "https://kms.example": true, "http://[::1]:4599/": true,
		"": false, "127.0.0.1:4599": false, "ftp://x": false, "http://": false, "http://:80": false, "http://user@host": false,
		"http://a b": false,
	} {
		assert.Equal(t, good, checkEndpoint("argument --endpoint-url", text) == nil, text)
	}
	err := checkEndpoint("AWS_ENDPOINT_URL", "http://user:S3CRET@host")
	assert.EqualError(t, err, "AWS_ENDPOINT_URL: a URL with a user name or password is not taken")
}

const profiles = `[default]
region = us-east-1

[profile plain]
endpoint_url = http://plain.example

[profile both]
endpoint_url = http://both.example
services = hsm

[profile ignoring]
endpoint_url = http://both.example
services = hsm
ignore_configured_endpoint_urls = true

[profile odd]
endpoint_url = odd.example

[services hsm]
kms =
  endpoint_url = http://services.example
s3 =
  endpoint_url = http://s3.example
`

// TestEndpointOfTheAWSConfiguration: the one that the SDK takes, and where it was found.
func TestEndpointOfTheAWSConfiguration(t *testing.T) {
	const service, global, ignore, profile = "AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_PROFILE"
	for name, tc := range map[string]struct {
		env  map[string]string
		want string // of standard error, or of the error
	}{
		"nothing":       {nil, "no state directory is given"},
		"the service's": {map[string]string{service: "http://one.example"}, `asking "http://one.example" (AWS_ENDPOINT_URL_KMS)`},
		"all services'": {map[string]string{global: "http://two.example"}, `asking "http://two.example" (AWS_ENDPOINT_URL)`},
		"the service's before": {map[string]string{service: "http://one.example", global: "http://two.example"},
			`asking "http://one.example" (AWS_ENDPOINT_URL_KMS)`},
		"environment before file": {map[string]string{global: "http://two.example", profile: "both"},
			`asking "http://two.example" (AWS_ENDPOINT_URL)`},
		"a profile's": {map[string]string{profile: "plain"}, `asking "http://plain.example" (endpoint_url of the profile plain)`},
		"its services section": {map[string]string{profile: "both"},
			`asking "http://services.example" (endpoint_url for kms in the services section of the profile both)`},
		"ignored": {map[string]string{service: "http://one.example", global: "http://two.example", ignore: "true"},
			"no state directory is given"},
		"ignored by the profile": {map[string]string{profile: "ignoring"}, "no state directory is given"},
		"no URL":                 {map[string]string{profile: "odd"}, `endpoint_url of the profile odd: "odd.example" is no URL`},
		"a missing profile": {map[string]string{profile: "gone"},
			"no state directory is given, and no server can be found: reading the AWS configuration: "},
	} {
		t.Run(name, func(t *testing.T) {
			configFile := cleanAWS(t)
			require.NoError(t, os.WriteFile(configFile, []byte(profiles), 0o600))
			t.Setenv(envStateDir.name, "")
			for _, variable := range []string{service, global, ignore} { // the SDK tells an empty one from none
				require.NoError(t, os.Unsetenv(variable))
			}
			for variable, value := range tc.env {
				t.Setenv(variable, value)
			}
			var stderr bytes.Buffer
			a := &app{stderr: &stderr}
			cfg, err := a.awsConfig(t.Context())
			if err == nil {
				err = a.configuredEndpoint(cfg)
			} else {
				err = a.withClient(t.Context(), func(api) error { t.Fatal("used"); return nil })
			}
			if endpoint, ok := strings.CutPrefix(tc.want, "asking "); ok {
				require.NoError(t, err)
				assert.Equal(t, "pkcs11kms: asking "+endpoint+"\n", stderr.String())
				assert.Contains(t, endpoint, a.endpoint)
				return
			}
			require.ErrorContains(t, err, tc.want)
			assert.NotEmpty(t, hintOf(err)+tc.env[profile])
			assert.Empty(t, stderr.String())
		})
	}
}

// TestTheStateDirectoryIsNearer: what a profile names is not asked where there is a state directory.
func TestTheStateDirectoryIsNearer(t *testing.T) {
	cleanAWS(t)
	t.Setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1")
	t.Setenv("AWS_REGION", "us-east-1")
	for _, a := range []*app{{stateDir: t.TempDir() + "/gone"}, {}} {
		t.Setenv(envStateDir.name, t.TempDir()+"/gone")
		var stderr bytes.Buffer
		a.stderr = &stderr
		err := a.withClient(t.Context(), func(api) error { return errors.New("used") })
		require.ErrorContains(t, err, "does not exist")
		assert.Empty(t, stderr.String())
	}
	t.Setenv(envStateDir.name, "")
	var stderr bytes.Buffer
	a := &app{stderr: &stderr}
	require.EqualError(t, a.withClient(t.Context(), func(api) error { return nil }), "no AWS credentials are given")
	assert.Contains(t, stderr.String(), "AWS_ENDPOINT_URL_KMS")
}
