package main

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// identities is what the verbs of "iam" use. It is cut from *iam.Client, so that a server fits in the same verbs.
type identities interface {
	CreatePrincipal(context.Context, iam.PrincipalName, iam.PrincipalOptions) (iam.Principal, error)
	GetPrincipal(context.Context, iam.PrincipalName) (iam.Principal, error)
	ListPrincipals(ctx context.Context, t keystore.PrincipalType, pathPrefix string) ([]iam.Principal, error)
	DeletePrincipal(context.Context, iam.PrincipalName) error
	UpdateTrustPolicy(ctx context.Context, roleName, document string) error
	UpdateRole(ctx context.Context, roleName string, to iam.RoleUpdate) error
	PutPrincipalPolicy(ctx context.Context, name iam.PrincipalName, policyName, document string) error
	GetPrincipalPolicy(ctx context.Context, name iam.PrincipalName, policyName string) (string, error)
	ListPrincipalPolicies(context.Context, iam.PrincipalName) ([]string, error)
	DeletePrincipalPolicy(ctx context.Context, name iam.PrincipalName, policyName string) error
	TagPrincipal(context.Context, iam.PrincipalName, []keystore.Tag) error
	UntagPrincipal(context.Context, iam.PrincipalName, []string) error
	ListPrincipalTags(context.Context, iam.PrincipalName) ([]keystore.Tag, error)
	CreateAccessKey(context.Context, iam.PrincipalName) (iam.AccessKey, error)
	ListAccessKeys(context.Context, iam.PrincipalName) ([]iam.AccessKey, error)
	UpdateAccessKey(ctx context.Context, owner iam.PrincipalName, id string, status keystore.AccessKeyStatus) error
	DeleteAccessKey(ctx context.Context, owner iam.PrincipalName, id string) error
	GetAccessKeyLastUsed(ctx context.Context, id string) (iam.PrincipalName, iam.AccessKeyLastUsed, error)
}

var (
	_ identities = (*iam.Client)(nil)
	_ identities = remoteIdentities{}
)

// withIdentities gives use the identities of the server, or of the state directory in the name of whom the command line names.
func (a *app) withIdentities(ctx context.Context, use func(identities) error) error {
	if a.usesDirectory() {
		return a.withToken(ctx, func(client *pkcs11kms.Client) error { return use(client.IAM()) })
	}
	cfg, err := a.serverConfig(ctx)
	if err != nil {
		return err
	}
	cfg.Region = cmp.Or(cfg.Region, "us-east-1") // which a server always takes: IAM has no regions
	if err := a.prepareCredentials(ctx, cfg); err != nil {
		return err
	}
	client := awsiam.NewFromConfig(cfg, func(o *awsiam.Options) { o.BaseEndpoint, o.Retryer = aws.String(a.endpoint), retryer() })
	return a.remoteError(use(remoteIdentities{client}))
}

// remoteIdentities are those of a server.
type remoteIdentities struct{ client *awsiam.Client }

func isUser(name iam.PrincipalName) bool { return name.Type == keystore.PrincipalUser }

// ofUser is the UserName of an owner of access keys: nil for whoever signs.
func ofUser(owner iam.PrincipalName) (*string, error) {
	if owner.Type == keystore.PrincipalRole {
		return nil, usagef("--role-name does not go with a server: AWS IAM knows no access keys of roles; use the state directory")
	}
	if owner.Name == "" {
		return nil, nil
	}
	return &owner.Name, nil
}

func (r remoteIdentities) CreatePrincipal(ctx context.Context, name iam.PrincipalName, o iam.PrincipalOptions) (iam.Principal, error) {
	path := aws.String(cmp.Or(o.Path, "/"))
	if isUser(name) {
		out, err := r.client.CreateUser(ctx, &awsiam.CreateUserInput{UserName: &name.Name, Path: path, Tags: tagsToSDK(o.Tags)})
		if err != nil {
			return iam.Principal{}, err
		}
		return userOf(*out.User)
	}
	in := &awsiam.CreateRoleInput{RoleName: &name.Name, Path: path, AssumeRolePolicyDocument: &o.TrustPolicy, Tags: tagsToSDK(o.Tags)}
	if o.Description != "" {
		in.Description = &o.Description
	}
	if o.MaxSessionDuration != 0 {
		in.MaxSessionDuration = &o.MaxSessionDuration
	}
	if o.TrustPolicy == "" {
		return iam.Principal{}, usagef("--assume-role-policy-document is required where a server is asked, as with AWS")
	}
	out, err := r.client.CreateRole(ctx, in)
	if err != nil {
		return iam.Principal{}, err
	}
	return roleOf(*out.Role)
}

func (r remoteIdentities) GetPrincipal(ctx context.Context, name iam.PrincipalName) (iam.Principal, error) {
	if isUser(name) {
		out, err := r.client.GetUser(ctx, &awsiam.GetUserInput{UserName: &name.Name})
		if err != nil {
			return iam.Principal{}, err
		}
		return userOf(*out.User)
	}
	out, err := r.client.GetRole(ctx, &awsiam.GetRoleInput{RoleName: &name.Name})
	if err != nil {
		return iam.Principal{}, err
	}
	return roleOf(*out.Role)
}

func (r remoteIdentities) ListPrincipals(ctx context.Context, t keystore.PrincipalType, prefix string) (list []iam.Principal, err error) {
	var begins *string
	if prefix != "" {
		begins = &prefix
	}
	list = []iam.Principal{}
	take := func(p iam.Principal, err error) error {
		list = append(list, p)
		return err
	}
	if t == keystore.PrincipalUser {
		pages := awsiam.NewListUsersPaginator(r.client, &awsiam.ListUsersInput{PathPrefix: begins})
		for err == nil && pages.HasMorePages() {
			var page *awsiam.ListUsersOutput
			if page, err = pages.NextPage(ctx); err == nil {
				err = eachOf(page.Users, func(user types.User) error { return take(userOf(user)) })
			}
		}
		return list, err
	}
	pages := awsiam.NewListRolesPaginator(r.client, &awsiam.ListRolesInput{PathPrefix: begins})
	for err == nil && pages.HasMorePages() {
		var page *awsiam.ListRolesOutput
		if page, err = pages.NextPage(ctx); err == nil {
			err = eachOf(page.Roles, func(role types.Role) error { return take(roleOf(role)) })
		}
	}
	return list, err
}

func eachOf[T any](list []T, use func(T) error) error {
	for _, one := range list {
		if err := use(one); err != nil {
			return err
		}
	}
	return nil
}

func (r remoteIdentities) DeletePrincipal(ctx context.Context, name iam.PrincipalName) (err error) {
	if isUser(name) {
		_, err = r.client.DeleteUser(ctx, &awsiam.DeleteUserInput{UserName: &name.Name})
	} else {
		_, err = r.client.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: &name.Name})
	}
	return err
}

func (r remoteIdentities) UpdateTrustPolicy(ctx context.Context, roleName, document string) error {
	_, err := r.client.UpdateAssumeRolePolicy(ctx, &awsiam.UpdateAssumeRolePolicyInput{RoleName: &roleName, PolicyDocument: &document})
	return err
}

func (r remoteIdentities) UpdateRole(ctx context.Context, roleName string, to iam.RoleUpdate) error {
	_, err := r.client.UpdateRole(ctx, &awsiam.UpdateRoleInput{RoleName: &roleName, Description: to.Description,
		MaxSessionDuration: to.MaxSessionDuration})
	return err
}

func userOf(user types.User) (iam.Principal, error) {
	return iam.Principal{PrincipalName: iam.PrincipalName{Type: keystore.PrincipalUser, Name: aws.ToString(user.UserName)},
		PrincipalOptions: iam.PrincipalOptions{Path: aws.ToString(user.Path), Tags: tagsFromSDK(user.Tags)},
		ID:               aws.ToString(user.UserId), ARN: aws.ToString(user.Arn), Created: timeOf(user.CreateDate)}, nil
}

func roleOf(role types.Role) (iam.Principal, error) {
	trust, err := unescaped(role.AssumeRolePolicyDocument)
	return iam.Principal{PrincipalName: iam.PrincipalName{Type: keystore.PrincipalRole, Name: aws.ToString(role.RoleName)},
		PrincipalOptions: iam.PrincipalOptions{Path: aws.ToString(role.Path), Description: aws.ToString(role.Description),
			TrustPolicy: trust, Tags: tagsFromSDK(role.Tags), MaxSessionDuration: aws.ToInt32(role.MaxSessionDuration)},
		ID: aws.ToString(role.RoleId), ARN: aws.ToString(role.Arn), Created: timeOf(role.CreateDate)}, err
}

// unescaped is a policy document as it was given: IAM answers with it as a part of a URL.
func unescaped(document *string) (string, error) {
	text, err := url.PathUnescape(strings.ReplaceAll(aws.ToString(document), "+", "%20"))
	if err != nil {
		return "", fmt.Errorf("reading the policy in the answer: %w", err)
	}
	return text, nil
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

func tagsToSDK(tags []keystore.Tag) (list []types.Tag) {
	for _, tag := range tags {
		list = append(list, types.Tag{Key: &tag.Key, Value: &tag.Value})
	}
	return list
}

func tagsFromSDK(list []types.Tag) (tags []keystore.Tag) {
	for _, tag := range list {
		tags = append(tags, keystore.Tag{Key: aws.ToString(tag.Key), Value: aws.ToString(tag.Value)})
	}
	return tags
}
