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
	GetGroup(ctx context.Context, name string, page iam.Page) (iam.Principal, []iam.Principal, string, error)
	AddUserToGroup(ctx context.Context, group, user string) error
	RemoveUserFromGroup(ctx context.Context, group, user string) error
	ListGroups(ctx context.Context, user string) ([]iam.Principal, error)
	PutPrincipalPolicy(ctx context.Context, name iam.PrincipalName, policyName, document string) error
	GetPrincipalPolicy(ctx context.Context, name iam.PrincipalName, policyName string) (string, error)
	ListPrincipalPolicies(context.Context, iam.PrincipalName) ([]string, error)
	DeletePrincipalPolicy(ctx context.Context, name iam.PrincipalName, policyName string) error
	AttachPolicy(ctx context.Context, name iam.PrincipalName, arn string) error
	DetachPolicy(ctx context.Context, name iam.PrincipalName, arn string) error
	ListAttachedPolicies(ctx context.Context, name iam.PrincipalName, pathPrefix string) ([]iam.AttachedPolicy, error)
	CreatePolicy(ctx context.Context, name, document string, options iam.PolicyOptions) (iam.Policy, error)
	GetPolicy(ctx context.Context, arn string) (iam.Policy, error)
	ListPolicies(context.Context, iam.PolicyFilter, iam.Page) ([]iam.Policy, string, error)
	DeletePolicy(ctx context.Context, arn string) error
	CreatePolicyVersion(ctx context.Context, arn, document string, setAsDefault bool) (iam.PolicyVersion, error)
	GetPolicyVersion(ctx context.Context, arn, id string) (iam.PolicyVersion, error)
	ListPolicyVersions(ctx context.Context, arn string) ([]iam.PolicyVersion, error)
	SetDefaultPolicyVersion(ctx context.Context, arn, id string) error
	DeletePolicyVersion(ctx context.Context, arn, id string) error
	ListEntitiesForPolicy(ctx context.Context, arn string, filter iam.EntityFilter, page iam.Page) ([]iam.Entity, string, error)
	TagPolicy(ctx context.Context, arn string, tags []keystore.Tag) error
	UntagPolicy(ctx context.Context, arn string, keys []string) error
	ListPolicyTags(ctx context.Context, arn string) ([]keystore.Tag, error)
	CreateOpenIDConnectProvider(ctx context.Context, url string, options iam.ProviderOptions) (iam.OpenIDConnectProvider, error)
	GetOpenIDConnectProvider(ctx context.Context, arn string) (iam.OpenIDConnectProvider, error)
	ListOpenIDConnectProviders(context.Context) ([]string, error)
	DeleteOpenIDConnectProvider(ctx context.Context, arn string) error
	AddClientID(ctx context.Context, arn, id string) error
	RemoveClientID(ctx context.Context, arn, id string) error
	UpdateProviderThumbprints(ctx context.Context, arn string, thumbprints []string) error
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

// byType makes the call of the type of a user, role or group.
func byType(name iam.PrincipalName, user, role, group func() error) error {
	switch name.Type {
	case keystore.PrincipalUser:
		return user()
	case keystore.PrincipalRole:
		return role()
	}
	return group()
}

// done is a call of which the answer does not matter.
func done[T any](_ T, err error) error { return err }

// eachMarker makes the calls of a list until it has no more pages: call asks for the one after a marker, which is nil at first.
func eachMarker(call func(marker *string) (next *string, err error)) error {
	var marker *string
	for {
		next, err := call(marker)
		if err != nil || next == nil {
			return err
		}
		marker = next
	}
}

// given is an optional member: nil where there is nothing.
func given(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

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

func (r remoteIdentities) CreatePrincipal(ctx context.Context, name iam.PrincipalName, o iam.PrincipalOptions) (
	made iam.Principal, err error) {
	path := aws.String(cmp.Or(o.Path, "/"))
	err = byType(name, func() error {
		out, err := r.client.CreateUser(ctx, &awsiam.CreateUserInput{UserName: &name.Name, Path: path, Tags: tagsToSDK(o.Tags)})
		if err == nil {
			made = userOf(*out.User)
		}
		return err
	}, func() (err error) {
		made, err = r.createRole(ctx, name.Name, path, o)
		return err
	}, func() error {
		out, err := r.client.CreateGroup(ctx, &awsiam.CreateGroupInput{GroupName: &name.Name, Path: path})
		if err == nil {
			made = groupOf(*out.Group)
		}
		return err
	})
	return made, err
}

func (r remoteIdentities) createRole(ctx context.Context, name string, path *string, o iam.PrincipalOptions) (iam.Principal, error) {
	in := &awsiam.CreateRoleInput{RoleName: &name, Path: path, AssumeRolePolicyDocument: &o.TrustPolicy, Tags: tagsToSDK(o.Tags),
		Description: given(o.Description)}
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

// GetPrincipal is of users and roles: a group has its own operation.
func (r remoteIdentities) GetPrincipal(ctx context.Context, name iam.PrincipalName) (found iam.Principal, err error) {
	err = byType(name, func() error {
		out, err := r.client.GetUser(ctx, &awsiam.GetUserInput{UserName: &name.Name})
		if err == nil {
			found = userOf(*out.User)
		}
		return err
	}, func() error {
		out, err := r.client.GetRole(ctx, &awsiam.GetRoleInput{RoleName: &name.Name})
		if err == nil {
			found, err = roleOf(*out.Role)
		}
		return err
	}, func() (err error) {
		found, _, _, err = r.GetGroup(ctx, name.Name, iam.Page{})
		return err
	})
	return found, err
}

func (r remoteIdentities) ListPrincipals(ctx context.Context, t keystore.PrincipalType, prefix string) (list []iam.Principal, err error) {
	list = []iam.Principal{}
	begins := given(prefix)
	err = byType(iam.PrincipalName{Type: t}, func() error {
		return eachMarker(func(marker *string) (*string, error) {
			out, err := r.client.ListUsers(ctx, &awsiam.ListUsersInput{PathPrefix: begins, Marker: marker})
			if err != nil {
				return nil, err
			}
			list = append(list, usersOf(out.Users)...)
			return out.Marker, nil
		})
	}, func() error {
		return eachMarker(func(marker *string) (*string, error) {
			out, err := r.client.ListRoles(ctx, &awsiam.ListRolesInput{PathPrefix: begins, Marker: marker})
			if err != nil {
				return nil, err
			}
			for _, role := range out.Roles {
				found, err := roleOf(role)
				if err != nil {
					return nil, err
				}
				list = append(list, found)
			}
			return out.Marker, nil
		})
	}, func() error {
		return eachMarker(func(marker *string) (*string, error) {
			out, err := r.client.ListGroups(ctx, &awsiam.ListGroupsInput{PathPrefix: begins, Marker: marker})
			if err != nil {
				return nil, err
			}
			list = append(list, groupsOf(out.Groups)...)
			return out.Marker, nil
		})
	})
	return list, err
}

func (r remoteIdentities) DeletePrincipal(ctx context.Context, name iam.PrincipalName) error {
	return byType(name, func() error {
		return done(r.client.DeleteUser(ctx, &awsiam.DeleteUserInput{UserName: &name.Name}))
	}, func() error {
		return done(r.client.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: &name.Name}))
	}, func() error {
		return done(r.client.DeleteGroup(ctx, &awsiam.DeleteGroupInput{GroupName: &name.Name}))
	})
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

func userOf(user types.User) iam.Principal {
	return iam.Principal{PrincipalName: iam.PrincipalName{Type: keystore.PrincipalUser, Name: aws.ToString(user.UserName)},
		PrincipalOptions: iam.PrincipalOptions{Path: aws.ToString(user.Path), Tags: tagsFromSDK(user.Tags)},
		ID:               aws.ToString(user.UserId), ARN: aws.ToString(user.Arn), Created: timeOf(user.CreateDate)}
}

func usersOf(users []types.User) (list []iam.Principal) {
	for _, user := range users {
		list = append(list, userOf(user))
	}
	return list
}

func groupOf(group types.Group) iam.Principal {
	return iam.Principal{PrincipalName: iam.PrincipalName{Type: keystore.PrincipalGroup, Name: aws.ToString(group.GroupName)},
		PrincipalOptions: iam.PrincipalOptions{Path: aws.ToString(group.Path)},
		ID:               aws.ToString(group.GroupId), ARN: aws.ToString(group.Arn), Created: timeOf(group.CreateDate)}
}

func groupsOf(groups []types.Group) (list []iam.Principal) {
	for _, group := range groups {
		list = append(list, groupOf(group))
	}
	return list
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
