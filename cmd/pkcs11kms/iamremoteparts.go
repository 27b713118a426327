package main

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// What belongs to the users and roles of a server: policies, tags and access keys.

func (r remoteIdentities) PutPrincipalPolicy(ctx context.Context, name iam.PrincipalName, policyName, document string) (err error) {
	if isUser(name) {
		_, err = r.client.PutUserPolicy(ctx,
			&awsiam.PutUserPolicyInput{UserName: &name.Name, PolicyName: &policyName, PolicyDocument: &document})
	} else {
		_, err = r.client.PutRolePolicy(ctx,
			&awsiam.PutRolePolicyInput{RoleName: &name.Name, PolicyName: &policyName, PolicyDocument: &document})
	}
	return err
}

func (r remoteIdentities) GetPrincipalPolicy(ctx context.Context, name iam.PrincipalName, policyName string) (string, error) {
	if isUser(name) {
		out, err := r.client.GetUserPolicy(ctx, &awsiam.GetUserPolicyInput{UserName: &name.Name, PolicyName: &policyName})
		if err != nil {
			return "", err
		}
		return unescaped(out.PolicyDocument)
	}
	out, err := r.client.GetRolePolicy(ctx, &awsiam.GetRolePolicyInput{RoleName: &name.Name, PolicyName: &policyName})
	if err != nil {
		return "", err
	}
	return unescaped(out.PolicyDocument)
}

func (r remoteIdentities) ListPrincipalPolicies(ctx context.Context, name iam.PrincipalName) (names []string, err error) {
	names = []string{}
	if isUser(name) {
		pages := awsiam.NewListUserPoliciesPaginator(r.client, &awsiam.ListUserPoliciesInput{UserName: &name.Name})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			names = append(names, page.PolicyNames...)
		}
		return names, nil
	}
	pages := awsiam.NewListRolePoliciesPaginator(r.client, &awsiam.ListRolePoliciesInput{RoleName: &name.Name})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		names = append(names, page.PolicyNames...)
	}
	return names, nil
}

func (r remoteIdentities) DeletePrincipalPolicy(ctx context.Context, name iam.PrincipalName, policyName string) (err error) {
	if isUser(name) {
		_, err = r.client.DeleteUserPolicy(ctx, &awsiam.DeleteUserPolicyInput{UserName: &name.Name, PolicyName: &policyName})
	} else {
		_, err = r.client.DeleteRolePolicy(ctx, &awsiam.DeleteRolePolicyInput{RoleName: &name.Name, PolicyName: &policyName})
	}
	return err
}

func (r remoteIdentities) TagPrincipal(ctx context.Context, name iam.PrincipalName, tags []keystore.Tag) (err error) {
	given := append([]types.Tag{}, tagsToSDK(tags)...)
	if isUser(name) {
		_, err = r.client.TagUser(ctx, &awsiam.TagUserInput{UserName: &name.Name, Tags: given})
	} else {
		_, err = r.client.TagRole(ctx, &awsiam.TagRoleInput{RoleName: &name.Name, Tags: given})
	}
	return err
}

func (r remoteIdentities) UntagPrincipal(ctx context.Context, name iam.PrincipalName, keys []string) (err error) {
	if isUser(name) {
		_, err = r.client.UntagUser(ctx, &awsiam.UntagUserInput{UserName: &name.Name, TagKeys: keys})
	} else {
		_, err = r.client.UntagRole(ctx, &awsiam.UntagRoleInput{RoleName: &name.Name, TagKeys: keys})
	}
	return err
}

func (r remoteIdentities) ListPrincipalTags(ctx context.Context, name iam.PrincipalName) ([]keystore.Tag, error) { // at most 50: one page
	if isUser(name) {
		out, err := r.client.ListUserTags(ctx, &awsiam.ListUserTagsInput{UserName: &name.Name})
		if err != nil {
			return nil, err
		}
		return tagsFromSDK(out.Tags), nil
	}
	out, err := r.client.ListRoleTags(ctx, &awsiam.ListRoleTagsInput{RoleName: &name.Name})
	if err != nil {
		return nil, err
	}
	return tagsFromSDK(out.Tags), nil
}

func (r remoteIdentities) CreateAccessKey(ctx context.Context, owner iam.PrincipalName) (iam.AccessKey, error) {
	user, err := ofUser(owner)
	if err != nil {
		return iam.AccessKey{}, err
	}
	out, err := r.client.CreateAccessKey(ctx, &awsiam.CreateAccessKeyInput{UserName: user})
	if err != nil {
		return iam.AccessKey{}, err
	}
	key := out.AccessKey
	return iam.AccessKey{Owner: namedUser(key.UserName), ID: aws.ToString(key.AccessKeyId), Secret: aws.ToString(key.SecretAccessKey),
		Status: keystore.AccessKeyStatus(key.Status), Created: timeOf(key.CreateDate)}, nil
}

// namedUser is the owner of that name; the account's root has none.
func namedUser(name *string) iam.PrincipalName {
	if aws.ToString(name) == "" {
		return iam.PrincipalName{}
	}
	return iam.PrincipalName{Type: keystore.PrincipalUser, Name: *name}
}

// ListAccessKeys tells no last uses, as AWS IAM does not.
func (r remoteIdentities) ListAccessKeys(ctx context.Context, owner iam.PrincipalName) ([]iam.AccessKey, error) {
	user, err := ofUser(owner)
	if err != nil {
		return nil, err
	}
	keys := []iam.AccessKey{}
	pages := awsiam.NewListAccessKeysPaginator(r.client, &awsiam.ListAccessKeysInput{UserName: user})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, key := range page.AccessKeyMetadata {
			keys = append(keys, iam.AccessKey{Owner: namedUser(key.UserName), ID: aws.ToString(key.AccessKeyId),
				Status: keystore.AccessKeyStatus(key.Status), Created: timeOf(key.CreateDate)})
		}
	}
	return keys, nil
}

func (r remoteIdentities) UpdateAccessKey(
	ctx context.Context, owner iam.PrincipalName, id string, status keystore.AccessKeyStatus,
) error {
	user, err := ofUser(owner)
	if err == nil {
		_, err = r.client.UpdateAccessKey(ctx,
			&awsiam.UpdateAccessKeyInput{UserName: user, AccessKeyId: &id, Status: types.StatusType(status)})
	}
	return err
}

func (r remoteIdentities) DeleteAccessKey(ctx context.Context, owner iam.PrincipalName, id string) error {
	user, err := ofUser(owner)
	if err == nil {
		_, err = r.client.DeleteAccessKey(ctx, &awsiam.DeleteAccessKeyInput{UserName: user, AccessKeyId: &id})
	}
	return err
}

func (r remoteIdentities) GetAccessKeyLastUsed(
	ctx context.Context, id string,
) (owner iam.PrincipalName, used iam.AccessKeyLastUsed, err error) {
	out, err := r.client.GetAccessKeyLastUsed(ctx, &awsiam.GetAccessKeyLastUsedInput{AccessKeyId: &id})
	if err != nil || out.AccessKeyLastUsed == nil {
		return owner, used, err
	}
	used = iam.AccessKeyLastUsed{LastUsedDate: timeOf(out.AccessKeyLastUsed.LastUsedDate),
		ServiceName: aws.ToString(out.AccessKeyLastUsed.ServiceName), Region: aws.ToString(out.AccessKeyLastUsed.Region)}
	return namedUser(out.UserName), used, nil
}
