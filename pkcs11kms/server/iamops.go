package server

import (
	"cmp"
	"context"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

const iamNamespace = "https://iam.amazonaws.com/doc/2010-05-08/"

// identities is AWS IAM. Inputs are in iaminputs.go, outputs in iamshapes.go.
var identities = &service{signingName: "iam", codec: query("iam", iamNamespace), global: true, operations: map[string]handler{
	"CreateUser":               iamOp(createUser),
	"GetUser":                  iamOp(getUser),
	"ListUsers":                iamOp(listUsers),
	"DeleteUser":               iamOp(deletePrincipal[userInput]),
	"PutUserPolicy":            iamOp(putPolicy[userPolicyDocument]),
	"GetUserPolicy":            iamOp(getUserPolicy),
	"ListUserPolicies":         iamOp(listPolicies[userPage]),
	"DeleteUserPolicy":         iamOp(deletePolicy[userPolicy]),
	"TagUser":                  iamOp(tagPrincipal[userTags]),
	"UntagUser":                iamOp(untagPrincipal[userTagKeys]),
	"ListUserTags":             iamOp(listTags[userPage]),
	"ListAttachedUserPolicies": iamOp(listAttached[userAttached]),
	"ListGroupsForUser":        iamOp(listGroupsOfUser),
	"AttachUserPolicy":         iamOp(attachPolicy[userAttachment]),

	"GetLoginProfile":                iamOp(getLoginProfile),
	"ListMFADevices":                 iamOp(listMFADevices),
	"ListSigningCertificates":        iamOp(listSigningCertificates),
	"ListSSHPublicKeys":              iamOp(listSSHPublicKeys),
	"ListServiceSpecificCredentials": iamOp(listServiceSpecificCredentials),

	"DetachUserPolicy": iamOp(detachPolicy[userAttachment]),

	"CreateRole":                  iamOp(createRole),
	"GetRole":                     iamOp(getRole),
	"UpdateRole":                  iamOp(updateRole),
	"ListRoles":                   iamOp(listRoles),
	"DeleteRole":                  iamOp(deletePrincipal[roleInput]),
	"UpdateAssumeRolePolicy":      iamOp(updateTrust),
	"PutRolePolicy":               iamOp(putPolicy[rolePolicyDocument]),
	"GetRolePolicy":               iamOp(getRolePolicy),
	"ListRolePolicies":            iamOp(listPolicies[rolePage]),
	"DeleteRolePolicy":            iamOp(deletePolicy[rolePolicy]),
	"TagRole":                     iamOp(tagPrincipal[roleTags]),
	"UntagRole":                   iamOp(untagPrincipal[roleTagKeys]),
	"ListRoleTags":                iamOp(listTags[rolePage]),
	"ListAttachedRolePolicies":    iamOp(listAttached[roleAttached]),
	"ListInstanceProfilesForRole": iamOp(listInstanceProfiles),
	"AttachRolePolicy":            iamOp(attachPolicy[roleAttachment]),
	"DetachRolePolicy":            iamOp(detachPolicy[roleAttachment]),

	"CreateGroup":               iamOp(createGroup),
	"GetGroup":                  iamOp(getGroup),
	"ListGroups":                iamOp(listGroups),
	"DeleteGroup":               iamOp(deletePrincipal[groupInput]),
	"AddUserToGroup":            iamOp(addToGroup),
	"RemoveUserFromGroup":       iamOp(removeFromGroup),
	"PutGroupPolicy":            iamOp(putPolicy[groupPolicyDocument]),
	"GetGroupPolicy":            iamOp(getGroupPolicy),
	"ListGroupPolicies":         iamOp(listPolicies[groupPage]),
	"DeleteGroupPolicy":         iamOp(deletePolicy[groupPolicy]),
	"AttachGroupPolicy":         iamOp(attachPolicy[groupAttachment]),
	"DetachGroupPolicy":         iamOp(detachPolicy[groupAttachment]),
	"ListAttachedGroupPolicies": iamOp(listAttached[groupAttached]),

	"CreatePolicy":            iamOp(createPolicy),
	"GetPolicy":               iamOp(getPolicy),
	"ListPolicies":            iamOp(listManaged),
	"DeletePolicy":            iamOp(deleteManaged),
	"CreatePolicyVersion":     iamOp(createVersion),
	"GetPolicyVersion":        iamOp(getVersion),
	"ListPolicyVersions":      iamOp(listVersions),
	"SetDefaultPolicyVersion": iamOp(setDefaultVersion),
	"DeletePolicyVersion":     iamOp(deleteVersion),
	"ListEntitiesForPolicy":   iamOp(listEntities),
	"TagPolicy":               iamOp(tagPolicy),
	"UntagPolicy":             iamOp(untagPolicy),
	"ListPolicyTags":          iamOp(listPolicyTags),

	"CreateOpenIDConnectProvider":             iamOp(createProvider),
	"GetOpenIDConnectProvider":                iamOp(getProvider),
	"ListOpenIDConnectProviders":              iamOp(listProviders),
	"DeleteOpenIDConnectProvider":             iamOp(deleteProvider),
	"AddClientIDToOpenIDConnectProvider":      iamOp(addClientID),
	"RemoveClientIDFromOpenIDConnectProvider": iamOp(removeClientID),
	"UpdateOpenIDConnectProviderThumbprint":   iamOp(updateThumbprints),

	"CreateAccessKey":      iamOp(createAccessKey),
	"ListAccessKeys":       iamOp(listAccessKeys),
	"UpdateAccessKey":      iamOp(updateAccessKey),
	"DeleteAccessKey":      iamOp(deleteAccessKey),
	"GetAccessKeyLastUsed": iamOp(getAccessKeyLastUsed),
}}

func iamOp[In, Out any](call func(context.Context, *iam.Client, *In) (*Out, error)) handler {
	return queryOp(iamNamespace, func(ctx context.Context, c *pkcs11kms.Client, in *In) (*Out, error) { return call(ctx, c.IAM(), in) })
}

// nothing is the output of operations that have none.
type nothing = struct{}

func done(err error) (*nothing, error) { return nil, err }

func user(name string) iam.PrincipalName {
	return iam.PrincipalName{Type: keystore.PrincipalUser, Name: name}
}

func role(name string) iam.PrincipalName {
	return iam.PrincipalName{Type: keystore.PrincipalRole, Name: name}
}

func group(name string) iam.PrincipalName {
	return iam.PrincipalName{Type: keystore.PrincipalGroup, Name: name}
}

// userOrCaller is the user of that name, or without one the caller: a user, or the account's root.
func userOrCaller(ctx context.Context, c *iam.Client, name *string) (iam.PrincipalName, error) {
	if name != nil {
		return user(*name), nil
	}
	own, err := c.Name(ctx)
	if err == nil && own.Type == keystore.PrincipalRole {
		err = validation("Must specify userName when calling with non-User credentials")
	}
	return own, err
}

// Users.

func createUser(ctx context.Context, c *iam.Client, in *createUserInput) (*userOutput, error) {
	if in.PermissionsBoundary != nil {
		return nil, noBoundaries
	}
	made, err := c.CreatePrincipal(ctx, user(*in.UserName), iam.PrincipalOptions{Path: text(in.Path), Tags: tagsOf(in.Tags)})
	return &userOutput{User: shownUser(made, true)}, err
}

func getUser(ctx context.Context, c *iam.Client, in *optionalUser) (*userOutput, error) {
	name, err := userOrCaller(ctx, c, in.UserName)
	if err != nil {
		return nil, err
	}
	found, err := c.GetPrincipal(ctx, name)
	return &userOutput{User: shownUser(found, true)}, err
}

func listUsers(ctx context.Context, c *iam.Client, in *listInput) (*usersOutput, error) {
	part, next, err := listPrincipals(ctx, c, keystore.PrincipalUser, in)
	return &usersOutput{Users: shownUsers(part), paged: next}, err
}

func shownUsers(list []iam.Principal) []userShape {
	shown := []userShape{}
	for _, found := range list {
		shown = append(shown, *shownUser(found, false))
	}
	return shown
}

// Roles.

func createRole(ctx context.Context, c *iam.Client, in *createRoleInput) (*roleOutput, error) {
	if in.PermissionsBoundary != nil {
		return nil, noBoundaries
	}
	options := iam.PrincipalOptions{Path: text(in.Path), Description: text(in.Description), TrustPolicy: *in.AssumeRolePolicyDocument,
		Tags: tagsOf(in.Tags)}
	if in.MaxSessionDuration != nil {
		options.MaxSessionDuration = cmp.Or(*in.MaxSessionDuration, -1) // 0 is no duration on the wire
	}
	made, err := c.CreatePrincipal(ctx, role(*in.RoleName), options)
	shown := shownRole(made)
	shown.MaxSessionDuration, shown.Description = nil, nil // as the real service has it
	return &roleOutput{Role: shown}, err
}

func getRole(ctx context.Context, c *iam.Client, in *roleInput) (*roleOutput, error) {
	found, err := c.GetPrincipal(ctx, role(*in.RoleName))
	shown := shownRole(found)
	shown.RoleLastUsed = &nothing{}
	return &roleOutput{Role: shown}, err
}

func listRoles(ctx context.Context, c *iam.Client, in *listInput) (*rolesOutput, error) {
	part, next, err := listPrincipals(ctx, c, keystore.PrincipalRole, in)
	out := &rolesOutput{Roles: []roleShape{}, paged: next}
	for _, found := range part {
		shown := shownRole(found)
		shown.Tags = nil
		out.Roles = append(out.Roles, *shown)
	}
	return out, err
}

func updateRole(ctx context.Context, c *iam.Client, in *updateRoleInput) (*nothing, error) {
	return &nothing{}, c.UpdateRole(ctx, *in.RoleName, iam.RoleUpdate{Description: in.Description, MaxSessionDuration: in.MaxSessionDuration})
}

func updateTrust(ctx context.Context, c *iam.Client, in *trustInput) (*nothing, error) {
	return done(c.UpdateTrustPolicy(ctx, *in.RoleName, *in.PolicyDocument))
}
