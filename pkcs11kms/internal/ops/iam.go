package ops

// The operations of AWS IAM on users, roles and access keys: the rows of its service authorization reference. Only the caller's own
// policies can allow them. In this service roles have access keys too.

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
		Read: true, Record: []string{"userName"}})
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
		Read: true, Record: []string{"roleName"}})
	ListInstanceProfilesForRole = add(Operation{Service: iam, Name: "ListInstanceProfilesForRole", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName"}})
)

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
