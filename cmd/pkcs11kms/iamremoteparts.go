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

func (r remoteIdentities) PutPrincipalPolicy(ctx context.Context, name iam.PrincipalName, policyName, document string) error {
	return byType(name, func() error {
		return done(r.client.PutUserPolicy(ctx,
			&awsiam.PutUserPolicyInput{UserName: &name.Name, PolicyName: &policyName, PolicyDocument: &document}))
	}, func() error {
		return done(r.client.PutRolePolicy(ctx,
			&awsiam.PutRolePolicyInput{RoleName: &name.Name, PolicyName: &policyName, PolicyDocument: &document}))
	}, func() error {
		return done(r.client.PutGroupPolicy(ctx,
			&awsiam.PutGroupPolicyInput{GroupName: &name.Name, PolicyName: &policyName, PolicyDocument: &document}))
	})
}

func (r remoteIdentities) GetPrincipalPolicy(ctx context.Context, name iam.PrincipalName, policyName string) (text string, err error) {
	var document *string
	err = byType(name, func() error {
		out, err := r.client.GetUserPolicy(ctx, &awsiam.GetUserPolicyInput{UserName: &name.Name, PolicyName: &policyName})
		if err == nil {
			document = out.PolicyDocument
		}
		return err
	}, func() error {
		out, err := r.client.GetRolePolicy(ctx, &awsiam.GetRolePolicyInput{RoleName: &name.Name, PolicyName: &policyName})
		if err == nil {
			document = out.PolicyDocument
		}
		return err
	}, func() error {
		out, err := r.client.GetGroupPolicy(ctx, &awsiam.GetGroupPolicyInput{GroupName: &name.Name, PolicyName: &policyName})
		if err == nil {
			document = out.PolicyDocument
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return unescaped(document)
}

func (r remoteIdentities) ListPrincipalPolicies(ctx context.Context, name iam.PrincipalName) (names []string, err error) {
	names = []string{}
	err = eachMarker(func(marker *string) (next *string, err error) {
		take := func(page []string, marker *string) {
			names, next = append(names, page...), marker
		}
		err = byType(name, func() error {
			out, err := r.client.ListUserPolicies(ctx, &awsiam.ListUserPoliciesInput{UserName: &name.Name, Marker: marker})
			if err == nil {
				take(out.PolicyNames, out.Marker)
			}
			return err
		}, func() error {
			out, err := r.client.ListRolePolicies(ctx, &awsiam.ListRolePoliciesInput{RoleName: &name.Name, Marker: marker})
			if err == nil {
				take(out.PolicyNames, out.Marker)
			}
			return err
		}, func() error {
			out, err := r.client.ListGroupPolicies(ctx, &awsiam.ListGroupPoliciesInput{GroupName: &name.Name, Marker: marker})
			if err == nil {
				take(out.PolicyNames, out.Marker)
			}
			return err
		})
		return next, err
	})
	return names, err
}

func (r remoteIdentities) DeletePrincipalPolicy(ctx context.Context, name iam.PrincipalName, policyName string) error {
	return byType(name, func() error {
		return done(r.client.DeleteUserPolicy(ctx, &awsiam.DeleteUserPolicyInput{UserName: &name.Name, PolicyName: &policyName}))
	}, func() error {
		return done(r.client.DeleteRolePolicy(ctx, &awsiam.DeleteRolePolicyInput{RoleName: &name.Name, PolicyName: &policyName}))
	}, func() error {
		return done(r.client.DeleteGroupPolicy(ctx, &awsiam.DeleteGroupPolicyInput{GroupName: &name.Name, PolicyName: &policyName}))
	})
}

// noTags is what is said of a group: it has none.
func noTags() error { return usagef("a group has no tags") }

func (r remoteIdentities) TagPrincipal(ctx context.Context, name iam.PrincipalName, tags []keystore.Tag) error {
	set := append([]types.Tag{}, tagsToSDK(tags)...)
	return byType(name, func() error {
		return done(r.client.TagUser(ctx, &awsiam.TagUserInput{UserName: &name.Name, Tags: set}))
	}, func() error {
		return done(r.client.TagRole(ctx, &awsiam.TagRoleInput{RoleName: &name.Name, Tags: set}))
	}, noTags)
}

func (r remoteIdentities) UntagPrincipal(ctx context.Context, name iam.PrincipalName, keys []string) error {
	return byType(name, func() error {
		return done(r.client.UntagUser(ctx, &awsiam.UntagUserInput{UserName: &name.Name, TagKeys: keys}))
	}, func() error {
		return done(r.client.UntagRole(ctx, &awsiam.UntagRoleInput{RoleName: &name.Name, TagKeys: keys}))
	}, noTags)
}

// ListPrincipalTags reads one page: there are at most 50.
func (r remoteIdentities) ListPrincipalTags(ctx context.Context, name iam.PrincipalName) (tags []keystore.Tag, err error) {
	err = byType(name, func() error {
		out, err := r.client.ListUserTags(ctx, &awsiam.ListUserTagsInput{UserName: &name.Name})
		if err == nil {
			tags = tagsFromSDK(out.Tags)
		}
		return err
	}, func() error {
		out, err := r.client.ListRoleTags(ctx, &awsiam.ListRoleTagsInput{RoleName: &name.Name})
		if err == nil {
			tags = tagsFromSDK(out.Tags)
		}
		return err
	}, noTags)
	return tags, err
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
	err = eachMarker(func(marker *string) (*string, error) {
		out, err := r.client.ListAccessKeys(ctx, &awsiam.ListAccessKeysInput{UserName: user, Marker: marker})
		if err != nil {
			return nil, err
		}
		for _, key := range out.AccessKeyMetadata {
			keys = append(keys, iam.AccessKey{Owner: namedUser(key.UserName), ID: aws.ToString(key.AccessKeyId),
				Status: keystore.AccessKeyStatus(key.Status), Created: timeOf(key.CreateDate)})
		}
		return out.Marker, nil
	})
	return keys, err
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
