package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// awsConfig reads what the AWS SDK finds in environment and profiles.
func (a *app) awsConfig(ctx context.Context) (aws.Config, error) {
	options := []func(*config.LoadOptions) error{
		// The role of an EC2 instance is of no use here, and where there is none the question takes seconds.
		config.WithEC2IMDSClientEnableState(imds.ClientDisabled),
	}
	if a.region != "" {
		options = append(options, config.WithRegion(a.region))
	}
	if a.debug {
		options = append(options, config.WithLogger(logging.NewStandardLogger(visibleLog(a.stderr))), config.WithClientLogMode(aws.LogRetries))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, &environmentError{fmt.Errorf("reading the AWS configuration: %w", err),
			"correct it, or choose another profile by export AWS_PROFILE=NAME"}
	}
	return cfg, nil
}

// remoteClient returns the client of the server at a.endpoint, with more options.
func (a *app) remoteClient(ctx context.Context, cfg aws.Config, more ...func(*kms.Options)) (*kms.Client, error) {
	if cfg.Region == "" {
		return nil, &usageError{err: errors.New("no region is given"), hint: "name the server's by --region, or by export AWS_REGION=us-east-1"}
	}
	if err := a.prepareCredentials(ctx, cfg); err != nil {
		return nil, err
	}
	return kms.NewFromConfig(cfg, append([]func(*kms.Options){func(o *kms.Options) {
		o.BaseEndpoint = aws.String(a.endpoint)
		o.Retryer = retryer()
	}}, more...)...), nil
}

// prepareCredentials makes sure that there are credentials.
func (a *app) prepareCredentials(ctx context.Context, cfg aws.Config) error {
	if err := checkCredentials(ctx, cfg.Credentials); err != nil {
		return err
	}
	a.tokenHint = sessionTokenHint(ctx, cfg.Credentials)
	return nil
}

// retryer repeats what may be better in a second.
func retryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(noUseAgain)}, o.Retryables...)
	})
}

// noUseAgain keeps the SDK from repeating what will not be better in a second, so that a person is told at once.
func noUseAgain(err error) aws.Ternary {
	var certificate *tls.CertificateVerificationError
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &certificate) {
		return aws.FalseTernary
	}
	return aws.UnknownTernary
}

func checkCredentials(ctx context.Context, found aws.CredentialsProvider) error {
	const hint = "make an access key where the state directory is: pkcs11kms iam create-access-key\n" +
		"and give it by export AWS_ACCESS_KEY_ID=ID AWS_SECRET_ACCESS_KEY=SECRET, or by a profile of the aws CLI"
	_, err := found.Retrieve(ctx)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return err
	case aws.IsCredentialsProvider(found, (*ec2rolecreds.Provider)(nil)): // the last resort of the SDK, which is switched off
		return &environmentError{errors.New("no AWS credentials are given"), hint}
	}
	return &environmentError{fmt.Errorf("getting the AWS credentials: %w", err), hint}
}

// authenticationHints are for the errors of the API by which a server tells that it does not know the access key.
var authenticationHints = map[string]string{
	"UnrecognizedClientException": "the server knows no such active access key; where its state directory is, this shows those there are:\n" +
		"pkcs11kms iam list-access-keys",
	"InvalidClientTokenId":      "the server knows no such active access key: check AWS_ACCESS_KEY_ID, or the profile",
	"SignatureDoesNotMatch":     "check the secret of the access key, the region and the clock of this machine",
	"InvalidSignatureException": "check the secret of the access key, the region and the clock of this machine",
}

// sessionTokenHint names a session token that is sent along: a server knows those that it has given out itself, so one that is left from
// work with AWS makes it refuse the best access key. Without one it is empty.
func sessionTokenHint(ctx context.Context, found aws.CredentialsProvider) string {
	used, err := found.Retrieve(ctx)
	switch {
	case err != nil || used.SessionToken == "":
		return ""
	case envSessionToken.value() == used.SessionToken:
		return "a session token was sent, which is not one of this server: unset " + envSessionToken.name + "\n"
	}
	return "a session token was sent, which is not one of this server: take it out of the profile (" + used.Source + ")\n"
}

// remoteError turns what the SDK says of a server into what a person can use: errors of the API stay what they are.
func (a *app) remoteError(err error) error {
	var api smithy.APIError
	var sdk *smithy.OperationError
	var sent *smithyhttp.RequestSendError
	switch {
	case errors.As(err, &api):
		if hint, ok := authenticationHints[api.ErrorCode()]; ok {
			return &environmentError{err, a.tokenHint + hint}
		}
		return err
	case errors.As(err, &sent):
		return a.unreachable(sent.Err)
	case errors.As(err, &sdk):
		return &environmentError{fmt.Errorf("asking %q: %w", a.endpoint, sdk.Err),
			"is this the URL of the API of a pkcs11kms server, and not of its admin listener or a proxy?"}
	}
	return err
}

// unreachable is the error of a request that got no answer.
func (a *app) unreachable(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // names the URL a second time
	}
	hint := "see whether the server runs there and whether it speaks http or https; to start one: pkcs11kms serve --state-dir DIR"
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		hint = "name the file with the certificate of its authority by export AWS_CA_BUNDLE=FILE"
	}
	return &environmentError{fmt.Errorf("reaching %q: %w", a.endpoint, err), hint}
}
