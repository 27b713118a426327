package server

import (
	"context"
	"fmt"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// Managed policies.

func createPolicy(ctx context.Context, c *iam.Client, in *createPolicyInput) (*policyOutput, error) {
	made, err := c.CreatePolicy(ctx, *in.PolicyName, *in.PolicyDocument,
		iam.PolicyOptions{Path: text(in.Path), Description: text(in.Description), Tags: tagsOf(in.Tags)})
	return &policyOutput{Policy: shownPolicy(made)}, err
}

func getPolicy(ctx context.Context, c *iam.Client, in *policyRef) (*policyOutput, error) {
	found, err := c.GetPolicy(ctx, *in.PolicyArn)
	shown := shownPolicy(found)
	shown.Tags = append([]tagShape{}, shown.Tags...) // there, also where there are none
	if found.Description != "" {
		shown.Description = &found.Description
	}
	return &policyOutput{Policy: shown}, err
}

func listManaged(ctx context.Context, c *iam.Client, in *listPoliciesInput) (*policiesOutput, error) {
	if err := in.page.check(); err != nil {
		return nil, err
	}
	filter := iam.PolicyFilter{Scope: text(in.Scope), OnlyAttached: in.OnlyAttached != nil && *in.OnlyAttached,
		PathPrefix: text(in.PathPrefix), Usage: text(in.PolicyUsageFilter)}
	list, next, err := c.ListPolicies(ctx, filter, in.page.asked())
	out := &policiesOutput{Policies: []managedShape{}, paged: upTo(next)}
	for _, found := range list {
		out.Policies = append(out.Policies, *shownPolicy(found))
	}
	return out, err
}

func deleteManaged(ctx context.Context, c *iam.Client, in *policyRef) (*nothing, error) {
	return done(c.DeletePolicy(ctx, *in.PolicyArn))
}

func createVersion(ctx context.Context, c *iam.Client, in *createVersionInput) (*versionOutput, error) {
	made, err := c.CreatePolicyVersion(ctx, *in.PolicyArn, *in.PolicyDocument, in.SetAsDefault != nil && *in.SetAsDefault)
	return &versionOutput{PolicyVersion: shownVersion(made)}, err
}

func getVersion(ctx context.Context, c *iam.Client, in *versionInput) (*versionOutput, error) {
	found, err := c.GetPolicyVersion(ctx, *in.PolicyArn, *in.VersionId)
	return &versionOutput{PolicyVersion: shownVersion(found)}, err
}

func listVersions(ctx context.Context, c *iam.Client, in *policyPage) (*versionsOutput, error) {
	if err := in.page.check(); err != nil {
		return nil, err
	}
	all, err := c.ListPolicyVersions(ctx, *in.PolicyArn)
	if err != nil {
		return nil, err
	}
	place := map[string]string{} // the newest comes first
	for i, version := range all {
		place[version.ID] = fmt.Sprintf("%02d", i)
	}
	part, next := pageOf(all, in.page, func(v iam.PolicyVersion) string { return place[v.ID] })
	out := &versionsOutput{Versions: []versionShape{}, paged: next}
	for _, version := range part {
		out.Versions = append(out.Versions, *shownVersion(version))
	}
	return out, nil
}

func setDefaultVersion(ctx context.Context, c *iam.Client, in *versionInput) (*nothing, error) {
	return done(c.SetDefaultPolicyVersion(ctx, *in.PolicyArn, *in.VersionId))
}

func deleteVersion(ctx context.Context, c *iam.Client, in *versionInput) (*nothing, error) {
	return done(c.DeletePolicyVersion(ctx, *in.PolicyArn, *in.VersionId))
}

// entityFilters are the values of EntityFilter. The managed policies of AWS are none here.
var entityFilters = map[string]iam.EntityFilter{
	"": {}, "User": {Type: keystore.PrincipalUser}, "Role": {Type: keystore.PrincipalRole}, "Group": {Type: keystore.PrincipalGroup},
	"LocalManagedPolicy": {Others: true}, "AWSManagedPolicy": {Others: true},
}

func listEntities(ctx context.Context, c *iam.Client, in *entitiesInput) (*entitiesOutput, error) {
	if err := in.page.check(); err != nil {
		return nil, err
	}
	filter, ok := entityFilters[text(in.EntityFilter)]
	if !ok {
		return nil, validation("1 validation error detected: Value at 'entityFilter' failed to satisfy constraint: Member must satisfy enum " +
			"value set: [User, Role, Group, LocalManagedPolicy, AWSManagedPolicy]")
	}
	filter.PathPrefix, filter.Usage = text(in.PathPrefix), text(in.PolicyUsageFilter)
	list, next, err := c.ListEntitiesForPolicy(ctx, *in.PolicyArn, filter, in.page.asked())
	out := &entitiesOutput{PolicyGroups: []entityGroup{}, PolicyUsers: []entityUser{}, PolicyRoles: []entityRole{}, paged: upTo(next)}
	for _, entity := range list {
		switch entity.Type {
		case keystore.PrincipalGroup:
			out.PolicyGroups = append(out.PolicyGroups, entityGroup{entity.Name, entity.ID})
		case keystore.PrincipalUser:
			out.PolicyUsers = append(out.PolicyUsers, entityUser{entity.Name, entity.ID})
		case keystore.PrincipalRole:
			out.PolicyRoles = append(out.PolicyRoles, entityRole{entity.Name, entity.ID})
		}
	}
	return out, err
}

func tagPolicy(ctx context.Context, c *iam.Client, in *policyTags) (*nothing, error) {
	return done(c.TagPolicy(ctx, *in.PolicyArn, tagsOf(in.Tags)))
}

func untagPolicy(ctx context.Context, c *iam.Client, in *policyTagKeys) (*nothing, error) {
	return done(c.UntagPolicy(ctx, *in.PolicyArn, in.TagKeys))
}

func listPolicyTags(ctx context.Context, c *iam.Client, in *policyPage) (*tagsOutput, error) {
	if err := in.page.check(); err != nil {
		return nil, err
	}
	all, err := c.ListPolicyTags(ctx, *in.PolicyArn)
	if err != nil {
		return nil, err
	}
	part, next := pageOf(all, in.page, func(tag keystore.Tag) string { return tag.Key })
	return &tagsOutput{Tags: append([]tagShape{}, shownTags(part)...), paged: next}, nil
}
