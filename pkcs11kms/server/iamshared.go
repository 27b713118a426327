package server

import (
	"context"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// The operations that users, roles and groups have in common. Their inputs differ in how they name one.

type named interface{ principal() iam.PrincipalName }

// input lets a function take a pointer to any of a set of structs with a method.
type input[T any, M any] interface {
	*T
	named
	shared() M
}

func deletePrincipal[T any, In interface {
	*T
	named
}](ctx context.Context, c *iam.Client, in *T) (*nothing, error) {
	return done(c.DeletePrincipal(ctx, In(in).principal()))
}

func putPolicy[T any, In input[T, policyText]](ctx context.Context, c *iam.Client, in *T) (*nothing, error) {
	given := In(in).shared()
	return done(c.PutPrincipalPolicy(ctx, In(in).principal(), given.name, given.document))
}

func deletePolicy[T any, In input[T, policyText]](ctx context.Context, c *iam.Client, in *T) (*nothing, error) {
	return done(c.DeletePrincipalPolicy(ctx, In(in).principal(), In(in).shared().name))
}

func getUserPolicy(ctx context.Context, c *iam.Client, in *userPolicy) (*userPolicyOutput, error) {
	document, err := c.GetPrincipalPolicy(ctx, in.principal(), *in.PolicyName)
	return &userPolicyOutput{*in.UserName, *in.PolicyName, escaped(document)}, err
}

func getRolePolicy(ctx context.Context, c *iam.Client, in *rolePolicy) (*rolePolicyOutput, error) {
	document, err := c.GetPrincipalPolicy(ctx, in.principal(), *in.PolicyName)
	return &rolePolicyOutput{*in.RoleName, *in.PolicyName, escaped(document)}, err
}

func getGroupPolicy(ctx context.Context, c *iam.Client, in *groupPolicy) (*groupPolicyOutput, error) {
	document, err := c.GetPrincipalPolicy(ctx, in.principal(), *in.PolicyName)
	return &groupPolicyOutput{*in.GroupName, *in.PolicyName, escaped(document)}, err
}

func listPolicies[T any, In input[T, page]](ctx context.Context, c *iam.Client, in *T) (*policyNamesOutput, error) {
	at := In(in).shared()
	if err := at.check(); err != nil {
		return nil, err
	}
	all, err := c.ListPrincipalPolicies(ctx, In(in).principal())
	if err != nil {
		return nil, err
	}
	part, next := pageOf(all, at, func(name string) string { return name })
	return &policyNamesOutput{PolicyNames: part, paged: next}, nil
}

func attachPolicy[T any, In input[T, string]](ctx context.Context, c *iam.Client, in *T) (*nothing, error) {
	return done(c.AttachPolicy(ctx, In(in).principal(), In(in).shared()))
}

func detachPolicy[T any, In input[T, string]](ctx context.Context, c *iam.Client, in *T) (*nothing, error) {
	return done(c.DetachPolicy(ctx, In(in).principal(), In(in).shared()))
}

func listAttached[T any, In interface {
	*T
	named
	listed() (string, page)
}](ctx context.Context, c *iam.Client, in *T) (*attachedOutput, error) {
	prefix, at := In(in).listed()
	if err := at.check(); err != nil {
		return nil, err
	}
	all, err := c.ListAttachedPolicies(ctx, In(in).principal(), prefix)
	if err != nil {
		return nil, err
	}
	part, next := pageOf(all, at, func(a iam.AttachedPolicy) string { return strings.ToLower(a.Name) })
	out := &attachedOutput{AttachedPolicies: []attachedShape{}, paged: next}
	for _, attached := range part {
		out.AttachedPolicies = append(out.AttachedPolicies, attachedShape{attached.Name, attached.ARN})
	}
	return out, nil
}

// listPrincipals returns a page of the users, roles or groups.
func listPrincipals(ctx context.Context, c *iam.Client, t keystore.PrincipalType, in *listInput) ([]iam.Principal, paged, error) {
	if err := in.page.check(); err != nil {
		return nil, paged{}, err
	}
	list, next, err := c.PagePrincipals(ctx, t, text(in.PathPrefix), in.page.asked())
	return list, upTo(next), err
}

func tagPrincipal[T any, In input[T, []tagShape]](ctx context.Context, c *iam.Client, in *T) (*nothing, error) {
	return done(c.TagPrincipal(ctx, In(in).principal(), tagsOf(In(in).shared())))
}

func untagPrincipal[T any, In input[T, []string]](ctx context.Context, c *iam.Client, in *T) (*nothing, error) {
	return done(c.UntagPrincipal(ctx, In(in).principal(), In(in).shared()))
}

func listTags[T any, In input[T, page]](ctx context.Context, c *iam.Client, in *T) (*tagsOutput, error) {
	at := In(in).shared()
	if err := at.check(); err != nil {
		return nil, err
	}
	all, err := c.ListPrincipalTags(ctx, In(in).principal())
	if err != nil {
		return nil, err
	}
	part, next := pageOf(all, at, func(tag keystore.Tag) string { return tag.Key })
	return &tagsOutput{Tags: append([]tagShape{}, shownTags(part)...), paged: next}, nil
}

// Access keys, of a user or of whoever asks.

func createAccessKey(ctx context.Context, c *iam.Client, in *optionalUser) (*accessKeyOutput, error) {
	name, err := userOrCaller(ctx, c, in.UserName)
	if err != nil {
		return nil, err
	}
	made, err := c.CreateAccessKey(ctx, name)
	return &accessKeyOutput{AccessKey: accessKeyShape{UserName: name.Name, AccessKeyId: made.ID, Status: string(made.Status),
		SecretAccessKey: &made.Secret, CreateDate: made.Created}}, err
}

func listAccessKeys(ctx context.Context, c *iam.Client, in *accessKeysInput) (*accessKeysOutput, error) {
	if err := in.page.check(); err != nil {
		return nil, err
	}
	name, err := userOrCaller(ctx, c, in.UserName)
	if err != nil {
		return nil, err
	}
	all, err := c.ListAccessKeys(ctx, name)
	if err != nil {
		return nil, err
	}
	part, next := pageOf(all, in.page, func(key iam.AccessKey) string { return key.ID })
	out := &accessKeysOutput{AccessKeyMetadata: []accessKeyShape{}, paged: next}
	for _, key := range part {
		out.AccessKeyMetadata = append(out.AccessKeyMetadata,
			accessKeyShape{UserName: name.Name, AccessKeyId: key.ID, Status: string(key.Status), CreateDate: key.Created})
	}
	return out, nil
}

func updateAccessKey(ctx context.Context, c *iam.Client, in *updateKeyInput) (*nothing, error) {
	name, err := userOrCaller(ctx, c, in.UserName)
	if err != nil {
		return nil, err
	}
	return done(c.UpdateAccessKey(ctx, name, *in.AccessKeyId, keystore.AccessKeyStatus(*in.Status)))
}

func deleteAccessKey(ctx context.Context, c *iam.Client, in *deleteKeyInput) (*nothing, error) {
	name, err := userOrCaller(ctx, c, in.UserName)
	if err != nil {
		return nil, err
	}
	return done(c.DeleteAccessKey(ctx, name, *in.AccessKeyId))
}

func getAccessKeyLastUsed(ctx context.Context, c *iam.Client, in *accessKeyInput) (*lastUsedOutput, error) {
	owner, used, err := c.GetAccessKeyLastUsed(ctx, *in.AccessKeyId)
	return &lastUsedOutput{UserName: owner.Name, AccessKeyLastUsed: lastUsedShape{used.LastUsedDate, used.ServiceName, used.Region}}, err
}
