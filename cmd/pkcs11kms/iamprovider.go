package main

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// oidcProvider is an OIDC provider as the API of AWS IAM has it.
type oidcProvider struct {
	Url                          string
	ClientIDList, ThumbprintList []string
	CreateDate                   string
	Tags                         []iamTag
}

type listedProvider struct{ Arn string }

const (
	exampleProvider = "arn:aws:iam::000000000000:oidc-provider/oidc.example.org/cluster"
	jwksUsage       = "the issuer's JWK Set: JSON, or file://PATH"
)

// onProvider makes the command of an operation on an OIDC provider, with the flags that it requires beside its ARN. run may return nothing
// to print.
func (a *app) onProvider(use, operation, short, long, example string, flags func(*input) (required []string),
	run func(ctx context.Context, client identities, arn string) (any, error)) *cobra.Command {
	cmd := verb(groupIssuers, use, short, long, "pkcs11kms iam "+example)
	in := newInput(cmd)
	arn := providerARN(in)
	in.require(append([]string{"open-id-connect-provider-arn"}, flags(in)...)...)
	cmd.RunE = a.iamOperation(operation, in, func(ctx context.Context, client identities) (any, change, error) {
		out, err := run(ctx, client, **arn)
		if out != nil {
			return out, change{}, err
		}
		return nothing, changedProvider(**arn), err
	})
	return cmd
}

func providerARN(in *input) **string {
	arn := new(*string)
	in.text(arn, "open-id-connect-provider-arn", "the ARN of the provider (required)")
	return arn
}

func changedProvider(arn string) change {
	return change{fmt.Sprintf("changing provider %q", arn),
		"to see how things stand: pkcs11kms iam get-open-id-connect-provider --open-id-connect-provider-arn " + shellQuote(arn)}
}

func (a *app) providerCommands() []*cobra.Command {
	return []*cobra.Command{a.createProviderCommand(), a.getProviderCommand(), a.listProvidersCommand(), a.deleteProviderCommand(),
		a.clientIDCommand("add-client-id-to", "AddClientIDTo", "Have tokens of a provider taken that are for one more audience",
			identities.AddClientID),
		a.clientIDCommand("remove-client-id-from", "RemoveClientIDFrom", "Have tokens of a provider refused that are for an audience",
			identities.RemoveClientID), a.updateThumbprintCommand()}
}

func (a *app) createProviderCommand() *cobra.Command {
	cmd := verb(groupIssuers, "create-open-id-connect-provider --url URL [flags]", "Take the tokens of an OpenID Connect issuer",
		"With its tokens, roles can be assumed that trust it (AssumeRoleWithWebIdentity). The URL is what the tokens have\n"+
			"in iss: https://, a host in lower case without a port, and a path that does not end with a slash. Keys are\n"+
			"not fetched: until they are given, here or by update-open-id-connect-provider-keys, no token verifies.",
		"pkcs11kms iam create-open-id-connect-provider --url https://oidc.example.org/new --client-id-list kms \\\n"+
			"  --jwks file://jwks.json")
	var url, jwks *string
	var options iam.ProviderOptions
	in := newInput(cmd)
	in.text(&url, "url", "the issuer (required)")
	in.list(&options.ClientIDs, "client-id-list", "the audiences that its tokens may be for")
	in.list(&options.Thumbprints, "thumbprint-list", "thumbprints of certificates: they are kept and decide nothing")
	in.text(&jwks, "jwks", jwksUsage+"; on the state directory alone")
	in.iamTags(&options.Tags, "tags", iamTagsUsage)
	in.require("url")
	cmd.RunE = a.iamOperation("CreateOpenIDConnectProvider", in, func(ctx context.Context, client identities) (any, change, error) {
		options.Keys = aws.ToString(jwks)
		made, err := client.CreateOpenIDConnectProvider(ctx, *url, options)
		return &struct {
				OpenIDConnectProviderArn string
				Tags                     []iamTag
			}{made.ARN, iamTagsOf(made.Tags)},
			change{fmt.Sprintf("creating provider %q", *url), "to see how things stand: pkcs11kms iam list-open-id-connect-providers"}, err
	})
	return cmd
}

func (a *app) getProviderCommand() *cobra.Command {
	return a.onProvider("get-open-id-connect-provider --open-id-connect-provider-arn ARN", "GetOpenIDConnectProvider", "Show a provider",
		"Prints what there is of it, besides its keys.", "get-open-id-connect-provider --open-id-connect-provider-arn "+exampleProvider,
		noFlags, func(ctx context.Context, client identities, arn string) (any, error) {
			p, err := client.GetOpenIDConnectProvider(ctx, arn)
			return &oidcProvider{p.URL, append([]string{}, p.ClientIDs...), append([]string{}, p.Thumbprints...), iamTime(p.Created),
				append([]iamTag{}, iamTagsOf(p.Tags)...)}, err
		})
}

func (a *app) listProvidersCommand() *cobra.Command {
	cmd := verb(groupIssuers, "list-open-id-connect-providers", "List the providers", "Prints their ARNs.",
		"pkcs11kms iam list-open-id-connect-providers")
	cmd.RunE = a.iamOperation("ListOpenIDConnectProviders", newInput(cmd),
		func(ctx context.Context, client identities) (any, change, error) {
			arns, err := client.ListOpenIDConnectProviders(ctx)
			list := []listedProvider{}
			for _, arn := range arns {
				list = append(list, listedProvider{arn})
			}
			return &struct{ OpenIDConnectProviderList []listedProvider }{list}, change{}, err
		})
	return cmd
}

func (a *app) deleteProviderCommand() *cobra.Command {
	return a.onProvider("delete-open-id-connect-provider --open-id-connect-provider-arn ARN", "DeleteOpenIDConnectProvider",
		"Take the tokens of an issuer no more", "Sessions that have begun stay, and so do roles that trust it. Prints nothing.",
		"delete-open-id-connect-provider --open-id-connect-provider-arn "+exampleProvider, noFlags,
		func(ctx context.Context, client identities, arn string) (any, error) {
			return nil, client.DeleteOpenIDConnectProvider(ctx, arn)
		})
}

func (a *app) clientIDCommand(name, operation, short string, run func(identities, context.Context, string, string) error) *cobra.Command {
	var id *string
	name += "-open-id-connect-provider"
	return a.onProvider(name+" --open-id-connect-provider-arn ARN \\\n  --client-id TEXT", operation+"OpenIDConnectProvider", short,
		"Tokens have the audience in aud or, where they have that, in azp. Prints nothing.",
		name+" --open-id-connect-provider-arn \\\n  "+exampleProvider+" --client-id sts",
		func(in *input) []string {
			in.text(&id, "client-id", "the audience (required)")
			return []string{"client-id"}
		}, func(ctx context.Context, client identities, arn string) (any, error) {
			return nil, run(client, ctx, arn, *id)
		})
}

func (a *app) updateThumbprintCommand() *cobra.Command {
	var list []string
	const name = "update-open-id-connect-provider-thumbprint"
	return a.onProvider(name+" --open-id-connect-provider-arn ARN \\\n  --thumbprint-list TEXT ...", "UpdateOpenIDConnectProviderThumbprint",
		"Keep other thumbprints of a provider", "They decide nothing: keys are given, not fetched. Prints nothing.",
		name+" --open-id-connect-provider-arn \\\n  "+exampleProvider+" --thumbprint-list 0123456789abcdef0123456789abcdef01234567",
		func(in *input) []string {
			in.list(&list, "thumbprint-list", "40 characters each (required)")
			return []string{"thumbprint-list"}
		}, func(ctx context.Context, client identities, arn string) (any, error) {
			return nil, client.UpdateProviderThumbprints(ctx, arn, list)
		})
}

// updateProviderKeysCommand is of an operation that AWS does not have: there, keys are fetched.
func (a *app) updateProviderKeysCommand() *cobra.Command {
	cmd := verb(groupIssuers, "update-open-id-connect-provider-keys --open-id-connect-provider-arn ARN \\\n  --jwks JSON",
		"Give a provider other keys", "Tokens by keys that are not in the set are refused from then on. Prints nothing.",
		"pkcs11kms iam update-open-id-connect-provider-keys --open-id-connect-provider-arn \\\n  "+exampleProvider+" --jwks file://jwks.json")
	cmd.Annotations = map[string]string{printsResponse: "", allRegions: ""}
	in := newInput(cmd)
	arn := providerARN(in)
	var jwks *string
	in.text(&jwks, "jwks", jwksUsage+" (required)")
	in.require("open-id-connect-provider-arn", "jwks")
	cmd.RunE = a.accountOperation(in, func(ctx context.Context, client *pkcs11kms.Client) (any, change, error) {
		return nothing, changedProvider(**arn), client.IAM().UpdateProviderKeys(ctx, **arn, *jwks)
	})
	return cmd
}

// The OIDC providers of a server.

func (r remoteIdentities) CreateOpenIDConnectProvider(ctx context.Context, url string, o iam.ProviderOptions) (
	iam.OpenIDConnectProvider, error) {
	if o.Keys != "" {
		return iam.OpenIDConnectProvider{}, usagef("argument --jwks: a server takes no keys: give them on the state directory, by " +
			"pkcs11kms iam update-open-id-connect-provider-keys")
	}
	out, err := r.client.CreateOpenIDConnectProvider(ctx, &awsiam.CreateOpenIDConnectProviderInput{Url: &url, ClientIDList: o.ClientIDs,
		ThumbprintList: o.Thumbprints, Tags: tagsToSDK(o.Tags)})
	if err != nil {
		return iam.OpenIDConnectProvider{}, err
	}
	return iam.OpenIDConnectProvider{ARN: aws.ToString(out.OpenIDConnectProviderArn),
		ProviderOptions: iam.ProviderOptions{Tags: tagsFromSDK(out.Tags)}}, nil
}

func (r remoteIdentities) GetOpenIDConnectProvider(ctx context.Context, arn string) (iam.OpenIDConnectProvider, error) {
	out, err := r.client.GetOpenIDConnectProvider(ctx, &awsiam.GetOpenIDConnectProviderInput{OpenIDConnectProviderArn: &arn})
	if err != nil {
		return iam.OpenIDConnectProvider{}, err
	}
	return iam.OpenIDConnectProvider{ARN: arn, URL: aws.ToString(out.Url), Created: timeOf(out.CreateDate),
		ProviderOptions: iam.ProviderOptions{ClientIDs: out.ClientIDList, Thumbprints: out.ThumbprintList,
			Tags: append([]keystore.Tag(nil), tagsFromSDK(out.Tags)...)}}, nil
}

func (r remoteIdentities) ListOpenIDConnectProviders(ctx context.Context) (arns []string, err error) {
	out, err := r.client.ListOpenIDConnectProviders(ctx, &awsiam.ListOpenIDConnectProvidersInput{})
	if err != nil {
		return nil, err
	}
	for _, p := range out.OpenIDConnectProviderList {
		arns = append(arns, aws.ToString(p.Arn))
	}
	return arns, nil
}

func (r remoteIdentities) DeleteOpenIDConnectProvider(ctx context.Context, arn string) error {
	return done(r.client.DeleteOpenIDConnectProvider(ctx, &awsiam.DeleteOpenIDConnectProviderInput{OpenIDConnectProviderArn: &arn}))
}

func (r remoteIdentities) AddClientID(ctx context.Context, arn, id string) error {
	return done(r.client.AddClientIDToOpenIDConnectProvider(ctx,
		&awsiam.AddClientIDToOpenIDConnectProviderInput{OpenIDConnectProviderArn: &arn, ClientID: &id}))
}

func (r remoteIdentities) RemoveClientID(ctx context.Context, arn, id string) error {
	return done(r.client.RemoveClientIDFromOpenIDConnectProvider(ctx,
		&awsiam.RemoveClientIDFromOpenIDConnectProviderInput{OpenIDConnectProviderArn: &arn, ClientID: &id}))
}

func (r remoteIdentities) UpdateProviderThumbprints(ctx context.Context, arn string, thumbprints []string) error {
	return done(r.client.UpdateOpenIDConnectProviderThumbprint(ctx,
		&awsiam.UpdateOpenIDConnectProviderThumbprintInput{OpenIDConnectProviderArn: &arn, ThumbprintList: thumbprints}))
}
