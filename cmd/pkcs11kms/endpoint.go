package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// The verbs of the API ask, in this order: the server that --endpoint-url names; the state directory that --state-dir or the
// environment names; the server that the AWS configuration names. What is nearer wins: who has a state directory in the
// environment never sends a request to a server that a profile happens to name.

// withClient gives use the client of the server, or of the state directory.
func (a *app) withClient(ctx context.Context, use func(api) error) error {
	if a.usesDirectory() {
		return a.withToken(ctx, func(client *pkcs11kms.Client) error { return use(client) })
	}
	cfg, err := a.serverConfig(ctx)
	if err != nil {
		return err
	}
	client, err := a.remoteClient(ctx, cfg)
	if err != nil {
		return err
	}
	return a.remoteError(use(client))
}

// usesDirectory tells whether the state directory is used, and no server asked.
func (a *app) usesDirectory() bool { return a.endpoint == "" && a.hasDirectory() }

// serverConfig is the AWS configuration for the server, which is the one of a.endpoint then.
func (a *app) serverConfig(ctx context.Context) (aws.Config, error) {
	if a.account != "" || a.actAs != "" {
		return aws.Config{}, a.actsByCredentials()
	}
	cfg, err := a.awsConfig(ctx)
	if err != nil && a.endpoint == "" {
		err = fmt.Errorf("no state directory is given, and no server can be found: %w", err)
	}
	if err == nil && a.endpoint == "" {
		err = a.configuredEndpoint(cfg)
	}
	return cfg, err
}

// configuredEndpoint takes the endpoint of the AWS configuration and says so on standard error.
func (a *app) configuredEndpoint(cfg aws.Config) error {
	// The SDK decides which of them counts, and whether AWS_IGNORE_CONFIGURED_ENDPOINT_URLS lets none count.
	endpoint := aws.ToString(kms.NewFromConfig(cfg).Options().BaseEndpoint)
	if endpoint == "" {
		_, err := a.directory() // says what is missing
		return err
	}
	source := endpointSource(cfg, endpoint)
	if err := checkEndpoint(source, endpoint); err != nil {
		return err
	}
	a.endpoint = endpoint
	fmt.Fprintf(a.stderr, "pkcs11kms: asking %q (%s)\n", endpoint, visible(source))
	return nil
}

// endpointSource says where the SDK found an endpoint, by looking in the same places in the same order.
func endpointSource(cfg aws.Config, endpoint string) string {
	for _, variable := range []variable{envKMSEndpoint, envEndpoint} {
		if variable.value() == endpoint {
			return variable.name
		}
	}
	for _, source := range cfg.ConfigSources {
		profile, ok := source.(config.SharedConfig)
		if !ok {
			continue
		}
		if profile.Services.ServiceValues["kms"]["endpoint_url"] == endpoint {
			return fmt.Sprintf("endpoint_url for kms in the services section of the profile %s", profile.Profile)
		}
		if profile.BaseEndpoint == endpoint {
			return fmt.Sprintf("endpoint_url of the profile %s", profile.Profile)
		}
	}
	return "the AWS configuration"
}

// checkEndpoint refuses what is no URL of a server, before anything is sent. source is where it was found.
func checkEndpoint(source, text string) error {
	u, err := url.Parse(text)
	switch {
	case err == nil && u.User != nil: // which must not be shown
		return usagef("%s: a URL with a user name or password is not taken", source)
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return usagef("%s: %q is no URL of the form http://HOST:PORT", source, text)
	}
	return nil
}

func (a *app) hasDirectory() bool { return a.stateDir != "" || envStateDir.value() != "" }

// directory returns the state directory that the flag or the environment names.
func (a *app) directory() (string, error) {
	if a.stateDir != "" {
		return a.stateDir, nil
	}
	if dir := envStateDir.value(); dir != "" {
		return dir, nil
	}
	return "", &usageError{err: errors.New("no state directory is given"),
		hint: "name it by --state-dir DIR, or by export " + envStateDir.name + "=DIR\n" +
			"make a new one by pkcs11kms init --softhsm --state-dir DIR"}
}
