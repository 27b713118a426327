package ops

// The operations of AWS IAM on users, roles, groups, managed policies and access keys: the rows of its service authorization reference.
// Only the caller's own policies can allow them. In this service roles have access keys too.

const iam = "iam"

// Users.
var (
	CreateUser = add(Operation{Service: iam, Name: "CreateUser", Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"}, Record: []string{"userName", "path", "tags"},
		Respond: []string{"user"}})
	GetUser = add(Operation{Service: iam, Name: "GetUser", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName"}})
	ListUsers = add(Operation{Service: iam, Name: "ListUsers", Subject: Account, IdentityOnly: true,
		Read: true, Record: []string{"pathPrefix"}})
	DeleteUser = add(Operation{Service: iam, Name: "DeleteUser", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"userName"}})
	PutUserPolicy = add(Operation{Service: iam, Name: "PutUserPolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"userName", "policyName", "policyDocument"}})
	GetUserPolicy = add(Operation{Service: iam, Name: "GetUserPolicy", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName", "policyName"}})
	ListUserPolicies = add(Operation{Service: iam, Name: "ListUserPolicies", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName"}})
	DeleteUserPolicy = add(Operation{Service: iam, Name: "DeleteUserPolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"userName", "policyName"}})
	TagUser = add(Operation{Service: iam, Name: "TagUser", Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"}, Record: []string{"userName", "tags"}})
	UntagUser = add(Operation{Service: iam, Name: "UntagUser", Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:TagKeys"}, Record: []string{"userName", "tagKeys"}})
	ListUserTags = add(Operation{Service: iam, Name: "ListUserTags", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName"}})
	ListAttachedUserPolicies = add(Operation{Service: iam, Name: "ListAttachedUserPolicies", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName", "pathPrefix"}})
	ListGroupsForUser = add(Operation{Service: iam, Name: "ListGroupsForUser", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName"}})
)

// Roles.
var (
	CreateRole = add(Operation{Service: iam, Name: "CreateRole", Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"},
		Record:     []string{"roleName", "path", "assumeRolePolicyDocument", "description", "maxSessionDuration", "tags"},
		Respond:    []string{"role"}})
	UpdateRole = add(Operation{Service: iam, Name: "UpdateRole", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"roleName", "description", "maxSessionDuration"}})
	GetRole = add(Operation{Service: iam, Name: "GetRole", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName"}})
	ListRoles = add(Operation{Service: iam, Name: "ListRoles", Subject: Account, IdentityOnly: true,
		Read: true, Record: []string{"pathPrefix"}})
	DeleteRole = add(Operation{Service: iam, Name: "DeleteRole", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"roleName"}})
	PutRolePolicy = add(Operation{Service: iam, Name: "PutRolePolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"roleName", "policyName", "policyDocument"}})
	GetRolePolicy = add(Operation{Service: iam, Name: "GetRolePolicy", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName", "policyName"}})
	ListRolePolicies = add(Operation{Service: iam, Name: "ListRolePolicies", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName"}})
	DeleteRolePolicy = add(Operation{Service: iam, Name: "DeleteRolePolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"roleName", "policyName"}})
	TagRole = add(Operation{Service: iam, Name: "TagRole", Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"}, Record: []string{"roleName", "tags"}})
	UntagRole = add(Operation{Service: iam, Name: "UntagRole", Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:TagKeys"}, Record: []string{"roleName", "tagKeys"}})
	ListRoleTags = add(Operation{Service: iam, Name: "ListRoleTags", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName"}})
	UpdateAssumeRolePolicy = add(Operation{Service: iam, Name: "UpdateAssumeRolePolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"roleName", "policyDocument"}})
	ListAttachedRolePolicies = add(Operation{Service: iam, Name: "ListAttachedRolePolicies", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName", "pathPrefix"}})
	ListInstanceProfilesForRole = add(Operation{Service: iam, Name: "ListInstanceProfilesForRole", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName"}})
)

// Groups.
var (
	CreateGroup = add(Operation{Service: iam, Name: "CreateGroup", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"groupName", "path"}, Respond: []string{"group"}})
	GetGroup = add(Operation{Service: iam, Name: "GetGroup", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"groupName"}})
	ListGroups = add(Operation{Service: iam, Name: "ListGroups", Subject: Account, IdentityOnly: true,
		Read: true, Record: []string{"pathPrefix"}})
	DeleteGroup = add(Operation{Service: iam, Name: "DeleteGroup", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"groupName"}})
	AddUserToGroup = add(Operation{Service: iam, Name: "AddUserToGroup", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"groupName", "userName"}})
	RemoveUserFromGroup = add(Operation{Service: iam, Name: "RemoveUserFromGroup", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"groupName", "userName"}})
	PutGroupPolicy = add(Operation{Service: iam, Name: "PutGroupPolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"groupName", "policyName", "policyDocument"}})
	GetGroupPolicy = add(Operation{Service: iam, Name: "GetGroupPolicy", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"groupName", "policyName"}})
	ListGroupPolicies = add(Operation{Service: iam, Name: "ListGroupPolicies", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"groupName"}})
	DeleteGroupPolicy = add(Operation{Service: iam, Name: "DeleteGroupPolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"groupName", "policyName"}})
)

// Managed policies.
var (
	CreatePolicy = add(Operation{Service: iam, Name: "CreatePolicy", Subject: ManagedPolicy, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"},
		Record:     []string{"policyName", "path", "policyDocument", "description", "tags"}, Respond: []string{"policy"}})
	GetPolicy = add(Operation{Service: iam, Name: "GetPolicy", Subject: ManagedPolicy, IdentityOnly: true,
		Read: true, Record: []string{"policyArn"}})
	ListPolicies = add(Operation{Service: iam, Name: "ListPolicies", Subject: Account, IdentityOnly: true,
		Read: true, Record: []string{"scope", "onlyAttached", "pathPrefix", "policyUsageFilter"}})
	DeletePolicy = add(Operation{Service: iam, Name: "DeletePolicy", Subject: ManagedPolicy, IdentityOnly: true, Writes: true,
		Record: []string{"policyArn"}})
	CreatePolicyVersion = add(Operation{Service: iam, Name: "CreatePolicyVersion", Subject: ManagedPolicy, IdentityOnly: true, Writes: true,
		Record: []string{"policyArn", "policyDocument", "setAsDefault"}, Respond: []string{"policyVersion"}})
	GetPolicyVersion = add(Operation{Service: iam, Name: "GetPolicyVersion", Subject: ManagedPolicy, IdentityOnly: true,
		Read: true, Record: []string{"policyArn", "versionId"}})
	ListPolicyVersions = add(Operation{Service: iam, Name: "ListPolicyVersions", Subject: ManagedPolicy, IdentityOnly: true,
		Read: true, Record: []string{"policyArn"}})
	SetDefaultPolicyVersion = add(Operation{Service: iam, Name: "SetDefaultPolicyVersion", Subject: ManagedPolicy, IdentityOnly: true,
		Writes: true, Record: []string{"policyArn", "versionId"}})
	DeletePolicyVersion = add(Operation{Service: iam, Name: "DeletePolicyVersion", Subject: ManagedPolicy, IdentityOnly: true, Writes: true,
		Record: []string{"policyArn", "versionId"}})
	TagPolicy = add(Operation{Service: iam, Name: "TagPolicy", Subject: ManagedPolicy, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"}, Record: []string{"policyArn", "tags"}})
	UntagPolicy = add(Operation{Service: iam, Name: "UntagPolicy", Subject: ManagedPolicy, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:TagKeys"}, Record: []string{"policyArn", "tagKeys"}})
	ListPolicyTags = add(Operation{Service: iam, Name: "ListPolicyTags", Subject: ManagedPolicy, IdentityOnly: true,
		Read: true, Record: []string{"policyArn"}})
	ListEntitiesForPolicy = add(Operation{Service: iam, Name: "ListEntitiesForPolicy", Subject: ManagedPolicy, IdentityOnly: true,
		Read: true, Record: []string{"policyArn", "entityFilter", "pathPrefix", "policyUsageFilter"}})
)

// Who has managed policies attached.
var (
	AttachUserPolicy  = add(attaching("AttachUserPolicy", "userName"))
	AttachRolePolicy  = add(attaching("AttachRolePolicy", "roleName"))
	AttachGroupPolicy = add(attaching("AttachGroupPolicy", "groupName"))
	DetachUserPolicy  = add(attaching("DetachUserPolicy", "userName"))
	DetachRolePolicy  = add(attaching("DetachRolePolicy", "roleName"))
	DetachGroupPolicy = add(attaching("DetachGroupPolicy", "groupName"))

	ListAttachedGroupPolicies = add(Operation{Service: iam, Name: "ListAttachedGroupPolicies", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"groupName", "pathPrefix"}})
)

func attaching(name, member string) Operation {
	return Operation{Service: iam, Name: name, Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"iam:PolicyARN"}, Record: []string{member, "policyArn"}}
}

// Access keys, whoever they belong to. Those of the account's root, and nobody else's rights over them, are the root's alone.
var (
	CreateAccessKey = add(Operation{Service: iam, Name: "CreateAccessKey", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"userName", "roleName"}, Respond: []string{"accessKey"}})
	ListAccessKeys = add(Operation{Service: iam, Name: "ListAccessKeys", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName", "roleName"}})
	UpdateAccessKey = add(Operation{Service: iam, Name: "UpdateAccessKey", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"userName", "roleName", "accessKeyId", "status"}})
	DeleteAccessKey = add(Operation{Service: iam, Name: "DeleteAccessKey", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"userName", "roleName", "accessKeyId"}})
	GetAccessKeyLastUsed = add(Operation{Service: iam, Name: "GetAccessKeyLastUsed", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"accessKeyId"}})
)
