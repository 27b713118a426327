package main

import (
	"cmp"
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// The groups and managed policies of a server. Lists are read whole.

func (r remoteIdentities) GetGroup(ctx context.Context, name string, _ iam.Page) (
	group iam.Principal, users []iam.Principal, _ string, err error) {
	err = eachMarker(func(marker *string) (*string, error) {
		out, err := r.client.GetGroup(ctx, &awsiam.GetGroupInput{GroupName: &name, Marker: marker})
		if err != nil {
			return nil, err
		}
		group, users = groupOf(*out.Group), append(users, usersOf(out.Users)...)
		return out.Marker, nil
	})
	return group, users, "", err
}

func (r remoteIdentities) AddUserToGroup(ctx context.Context, group, user string) error {
	return done(r.client.AddUserToGroup(ctx, &awsiam.AddUserToGroupInput{GroupName: &group, UserName: &user}))
}

func (r remoteIdentities) RemoveUserFromGroup(ctx context.Context, group, user string) error {
	return done(r.client.RemoveUserFromGroup(ctx, &awsiam.RemoveUserFromGroupInput{GroupName: &group, UserName: &user}))
}

func (r remoteIdentities) ListGroups(ctx context.Context, user string) (groups []iam.Principal, err error) {
	err = eachMarker(func(marker *string) (*string, error) {
		out, err := r.client.ListGroupsForUser(ctx, &awsiam.ListGroupsForUserInput{UserName: &user, Marker: marker})
		if err != nil {
			return nil, err
		}
		groups = append(groups, groupsOf(out.Groups)...)
		return out.Marker, nil
	})
	return groups, err
}

func (r remoteIdentities) AttachPolicy(ctx context.Context, name iam.PrincipalName, arn string) error {
	return byType(name, func() error {
		return done(r.client.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{UserName: &name.Name, PolicyArn: &arn}))
	}, func() error {
		return done(r.client.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: &name.Name, PolicyArn: &arn}))
	}, func() error {
		return done(r.client.AttachGroupPolicy(ctx, &awsiam.AttachGroupPolicyInput{GroupName: &name.Name, PolicyArn: &arn}))
	})
}

func (r remoteIdentities) DetachPolicy(ctx context.Context, name iam.PrincipalName, arn string) error {
	return byType(name, func() error {
		return done(r.client.DetachUserPolicy(ctx, &awsiam.DetachUserPolicyInput{UserName: &name.Name, PolicyArn: &arn}))
	}, func() error {
		return done(r.client.DetachRolePolicy(ctx, &awsiam.DetachRolePolicyInput{RoleName: &name.Name, PolicyArn: &arn}))
	}, func() error {
		return done(r.client.DetachGroupPolicy(ctx, &awsiam.DetachGroupPolicyInput{GroupName: &name.Name, PolicyArn: &arn}))
	})
}

// ListAttachedPolicies reads one page: there are at most ten.
func (r remoteIdentities) ListAttachedPolicies(ctx context.Context, name iam.PrincipalName, prefix string) (
	list []iam.AttachedPolicy, err error) {
	var found []types.AttachedPolicy
	begins := given(prefix)
	err = byType(name, func() error {
		out, err := r.client.ListAttachedUserPolicies(ctx, &awsiam.ListAttachedUserPoliciesInput{UserName: &name.Name, PathPrefix: begins})
		if err == nil {
			found = out.AttachedPolicies
		}
		return err
	}, func() error {
		out, err := r.client.ListAttachedRolePolicies(ctx, &awsiam.ListAttachedRolePoliciesInput{RoleName: &name.Name, PathPrefix: begins})
		if err == nil {
			found = out.AttachedPolicies
		}
		return err
	}, func() error {
		out, err := r.client.ListAttachedGroupPolicies(ctx, &awsiam.ListAttachedGroupPoliciesInput{GroupName: &name.Name, PathPrefix: begins})
		if err == nil {
			found = out.AttachedPolicies
		}
		return err
	})
	for _, policy := range found {
		list = append(list, iam.AttachedPolicy{Name: aws.ToString(policy.PolicyName), ARN: aws.ToString(policy.PolicyArn)})
	}
	return list, err
}

func policyOf(p types.Policy) iam.Policy {
	return iam.Policy{Name: aws.ToString(p.PolicyName), ID: aws.ToString(p.PolicyId), ARN: aws.ToString(p.Arn),
		PolicyOptions: iam.PolicyOptions{Path: aws.ToString(p.Path), Description: aws.ToString(p.Description),
			Tags: tagsFromSDK(p.Tags)},
		DefaultVersion: aws.ToString(p.DefaultVersionId), AttachmentCount: int(aws.ToInt32(p.AttachmentCount)),
		Created: timeOf(p.CreateDate), Updated: timeOf(p.UpdateDate)}
}

func versionOf(v types.PolicyVersion) (iam.PolicyVersion, error) {
	document, err := unescaped(v.Document)
	return iam.PolicyVersion{ID: aws.ToString(v.VersionId), IsDefault: v.IsDefaultVersion, Created: timeOf(v.CreateDate),
		Document: document}, err
}

func (r remoteIdentities) CreatePolicy(ctx context.Context, name, document string, o iam.PolicyOptions) (iam.Policy, error) {
	out, err := r.client.CreatePolicy(ctx, &awsiam.CreatePolicyInput{PolicyName: &name, PolicyDocument: &document,
		Path: aws.String(cmp.Or(o.Path, "/")), Description: given(o.Description), Tags: tagsToSDK(o.Tags)})
	if err != nil {
		return iam.Policy{}, err
	}
	return policyOf(*out.Policy), nil
}

func (r remoteIdentities) GetPolicy(ctx context.Context, arn string) (iam.Policy, error) {
	out, err := r.client.GetPolicy(ctx, &awsiam.GetPolicyInput{PolicyArn: &arn})
	if err != nil {
		return iam.Policy{}, err
	}
	return policyOf(*out.Policy), nil
}

func (r remoteIdentities) ListPolicies(ctx context.Context, filter iam.PolicyFilter, _ iam.Page) (list []iam.Policy, _ string, err error) {
	err = eachMarker(func(marker *string) (*string, error) {
		out, err := r.client.ListPolicies(ctx, &awsiam.ListPoliciesInput{Scope: types.PolicyScopeType(filter.Scope),
			OnlyAttached: filter.OnlyAttached, PathPrefix: given(filter.PathPrefix),
			PolicyUsageFilter: types.PolicyUsageType(filter.Usage), Marker: marker})
		if err != nil {
			return nil, err
		}
		for _, policy := range out.Policies {
			list = append(list, policyOf(policy))
		}
		return out.Marker, nil
	})
	return list, "", err
}

func (r remoteIdentities) DeletePolicy(ctx context.Context, arn string) error {
	return done(r.client.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: &arn}))
}

func (r remoteIdentities) CreatePolicyVersion(ctx context.Context, arn, document string, setAsDefault bool) (iam.PolicyVersion, error) {
	out, err := r.client.CreatePolicyVersion(ctx,
		&awsiam.CreatePolicyVersionInput{PolicyArn: &arn, PolicyDocument: &document, SetAsDefault: setAsDefault})
	if err != nil {
		return iam.PolicyVersion{}, err
	}
	return versionOf(*out.PolicyVersion)
}

func (r remoteIdentities) GetPolicyVersion(ctx context.Context, arn, id string) (iam.PolicyVersion, error) {
	out, err := r.client.GetPolicyVersion(ctx, &awsiam.GetPolicyVersionInput{PolicyArn: &arn, VersionId: &id})
	if err != nil {
		return iam.PolicyVersion{}, err
	}
	return versionOf(*out.PolicyVersion)
}

func (r remoteIdentities) ListPolicyVersions(ctx context.Context, arn string) (list []iam.PolicyVersion, err error) { // at most five
	out, err := r.client.ListPolicyVersions(ctx, &awsiam.ListPolicyVersionsInput{PolicyArn: &arn})
	if err != nil {
		return nil, err
	}
	for _, version := range out.Versions {
		found, err := versionOf(version)
		if err != nil {
			return nil, err
		}
		list = append(list, found)
	}
	return list, nil
}

func (r remoteIdentities) SetDefaultPolicyVersion(ctx context.Context, arn, id string) error {
	return done(r.client.SetDefaultPolicyVersion(ctx, &awsiam.SetDefaultPolicyVersionInput{PolicyArn: &arn, VersionId: &id}))
}

func (r remoteIdentities) DeletePolicyVersion(ctx context.Context, arn, id string) error {
	return done(r.client.DeletePolicyVersion(ctx, &awsiam.DeletePolicyVersionInput{PolicyArn: &arn, VersionId: &id}))
}

func (r remoteIdentities) ListEntitiesForPolicy(ctx context.Context, arn string, filter iam.EntityFilter, _ iam.Page) (
	list []iam.Entity, _ string, err error) {
	in := &awsiam.ListEntitiesForPolicyInput{PolicyArn: &arn, PathPrefix: given(filter.PathPrefix)}
	for name, t := range entityTypes {
		if t == filter.Type {
			in.EntityFilter = types.EntityType(name)
		}
	}
	add := func(t keystore.PrincipalType, name, id *string) {
		list = append(list, iam.Entity{PrincipalName: iam.PrincipalName{Type: t, Name: aws.ToString(name)}, ID: aws.ToString(id)})
	}
	err = eachMarker(func(marker *string) (*string, error) {
		in.Marker = marker
		out, err := r.client.ListEntitiesForPolicy(ctx, in)
		if err != nil {
			return nil, err
		}
		for _, group := range out.PolicyGroups {
			add(keystore.PrincipalGroup, group.GroupName, group.GroupId)
		}
		for _, user := range out.PolicyUsers {
			add(keystore.PrincipalUser, user.UserName, user.UserId)
		}
		for _, role := range out.PolicyRoles {
			add(keystore.PrincipalRole, role.RoleName, role.RoleId)
		}
		return out.Marker, nil
	})
	return list, "", err
}

func (r remoteIdentities) TagPolicy(ctx context.Context, arn string, tags []keystore.Tag) error {
	return done(r.client.TagPolicy(ctx, &awsiam.TagPolicyInput{PolicyArn: &arn, Tags: append([]types.Tag{}, tagsToSDK(tags)...)}))
}

func (r remoteIdentities) UntagPolicy(ctx context.Context, arn string, keys []string) error {
	return done(r.client.UntagPolicy(ctx, &awsiam.UntagPolicyInput{PolicyArn: &arn, TagKeys: keys}))
}

func (r remoteIdentities) ListPolicyTags(ctx context.Context, arn string) ([]keystore.Tag, error) { // at most 50: one page
	out, err := r.client.ListPolicyTags(ctx, &awsiam.ListPolicyTagsInput{PolicyArn: &arn})
	if err != nil {
		return nil, err
	}
	return tagsFromSDK(out.Tags), nil
}
