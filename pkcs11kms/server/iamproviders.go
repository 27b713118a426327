package server

import (
	"context"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// OIDC providers, with the members of AWS IAM's model.

type (
	createProviderInput struct {
		Url            *string `query:"required"`
		ClientIDList   []string
		ThumbprintList []string
		Tags           []tagShape
	}
	providerRef struct {
		OpenIDConnectProviderArn *string `query:"required"`
	}
	providerClient struct {
		OpenIDConnectProviderArn *string `query:"required"`
		ClientID                 *string `query:"required"`
	}
	providerThumbprints struct {
		OpenIDConnectProviderArn *string  `query:"required"`
		ThumbprintList           []string `query:"required"`
	}

	createProviderOutput struct {
		OpenIDConnectProviderArn string
		Tags                     []tagShape
	}
	providerOutput struct {
		Url            string
		ClientIDList   []string
		ThumbprintList []string
		CreateDate     time.Time
		Tags           []tagShape
	}
	listedProvider  struct{ Arn string }
	providersOutput struct{ OpenIDConnectProviderList []listedProvider }
)

func createProvider(ctx context.Context, c *iam.Client, in *createProviderInput) (*createProviderOutput, error) {
	made, err := c.CreateOpenIDConnectProvider(ctx, *in.Url,
		iam.ProviderOptions{ClientIDs: in.ClientIDList, Thumbprints: in.ThumbprintList, Tags: tagsOf(in.Tags)})
	return &createProviderOutput{made.ARN, shownTags(made.Tags)}, err
}

func getProvider(ctx context.Context, c *iam.Client, in *providerRef) (*providerOutput, error) {
	found, err := c.GetOpenIDConnectProvider(ctx, *in.OpenIDConnectProviderArn)
	return &providerOutput{Url: found.URL, ClientIDList: append([]string{}, found.ClientIDs...),
		ThumbprintList: append([]string{}, found.Thumbprints...), CreateDate: found.Created,
		Tags: append([]tagShape{}, shownTags(found.Tags)...)}, err
}

func listProviders(ctx context.Context, c *iam.Client, _ *struct{}) (*providersOutput, error) {
	arns, err := c.ListOpenIDConnectProviders(ctx)
	out := &providersOutput{[]listedProvider{}}
	for _, arn := range arns {
		out.OpenIDConnectProviderList = append(out.OpenIDConnectProviderList, listedProvider{arn})
	}
	return out, err
}

func deleteProvider(ctx context.Context, c *iam.Client, in *providerRef) (*nothing, error) {
	return done(c.DeleteOpenIDConnectProvider(ctx, *in.OpenIDConnectProviderArn))
}

func addClientID(ctx context.Context, c *iam.Client, in *providerClient) (*nothing, error) {
	return done(c.AddClientID(ctx, *in.OpenIDConnectProviderArn, *in.ClientID))
}

func removeClientID(ctx context.Context, c *iam.Client, in *providerClient) (*nothing, error) {
	return done(c.RemoveClientID(ctx, *in.OpenIDConnectProviderArn, *in.ClientID))
}

func updateThumbprints(ctx context.Context, c *iam.Client, in *providerThumbprints) (*nothing, error) {
	return done(c.UpdateProviderThumbprints(ctx, *in.OpenIDConnectProviderArn, in.ThumbprintList))
}
