package ops

// The operations of AWS IAM on users, roles, groups, managed policies and access keys: the rows of its service authorization reference.
// Only the caller's own policies can allow them. In this service roles have access keys too.

const iam = "iam"

// The rates of AWS IAM are not published. These are more than people and infrastructure tools ask for, and keep a caller's lists and
// changes from taking the store from those who use keys.
var (
	iamReads  = &Rate{PerSecond: 100}
	iamWrites = &Rate{PerSecond: 50}
)

func addIAM(op Operation) *Operation {
	op.Rate = iamWrites
	if op.Read {
		op.Rate = iamReads
	}
	return add(op)
}

// Users.
var (
	CreateUser = addIAM(Operation{Service: iam, Name: "CreateUser", Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"}, Record: []string{"userName", "path", "tags"},
		Respond: []string{"user"}})
	GetUser = addIAM(Operation{Service: iam, Name: "GetUser", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName"}})
	ListUsers = addIAM(Operation{Service: iam, Name: "ListUsers", Subject: Account, IdentityOnly: true,
		Read: true, Record: []string{"pathPrefix"}})
	DeleteUser = addIAM(Operation{Service: iam, Name: "DeleteUser", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"userName"}})
	PutUserPolicy = addIAM(Operation{Service: iam, Name: "PutUserPolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"userName", "policyName", "policyDocument"}})
	GetUserPolicy = addIAM(Operation{Service: iam, Name: "GetUserPolicy", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName", "policyName"}})
	ListUserPolicies = addIAM(Operation{Service: iam, Name: "ListUserPolicies", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName"}})
	DeleteUserPolicy = addIAM(Operation{Service: iam, Name: "DeleteUserPolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"userName", "policyName"}})
	TagUser = addIAM(Operation{Service: iam, Name: "TagUser", Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"}, Record: []string{"userName", "tags"}})
	UntagUser = addIAM(Operation{Service: iam, Name: "UntagUser", Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:TagKeys"}, Record: []string{"userName", "tagKeys"}})
	ListUserTags = addIAM(Operation{Service: iam, Name: "ListUserTags", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName"}})
	ListAttachedUserPolicies = addIAM(Operation{Service: iam, Name: "ListAttachedUserPolicies", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName", "pathPrefix"}})
	ListGroupsForUser = addIAM(Operation{Service: iam, Name: "ListGroupsForUser", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName"}})
)

// What users of AWS have beside, and nobody has here.
var (
	GetLoginProfile                = addIAM(ofUser("GetLoginProfile"))
	ListMFADevices                 = addIAM(ofUser("ListMFADevices"))
	ListSigningCertificates        = addIAM(ofUser("ListSigningCertificates"))
	ListSSHPublicKeys              = addIAM(ofUser("ListSSHPublicKeys"))
	ListServiceSpecificCredentials = addIAM(ofUser("ListServiceSpecificCredentials"))
)

func ofUser(name string) Operation {
	return Operation{Service: iam, Name: name, Subject: Principal, IdentityOnly: true, Read: true, Record: []string{"userName"}}
}

// Roles.
var (
	CreateRole = addIAM(Operation{Service: iam, Name: "CreateRole", Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"},
		Record:     []string{"roleName", "path", "assumeRolePolicyDocument", "description", "maxSessionDuration", "tags"},
		Respond:    []string{"role"}})
	UpdateRole = addIAM(Operation{Service: iam, Name: "UpdateRole", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"roleName", "description", "maxSessionDuration"}})
	GetRole = addIAM(Operation{Service: iam, Name: "GetRole", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName"}})
	ListRoles = addIAM(Operation{Service: iam, Name: "ListRoles", Subject: Account, IdentityOnly: true,
		Read: true, Record: []string{"pathPrefix"}})
	DeleteRole = addIAM(Operation{Service: iam, Name: "DeleteRole", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"roleName"}})
	PutRolePolicy = addIAM(Operation{Service: iam, Name: "PutRolePolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"roleName", "policyName", "policyDocument"}})
	GetRolePolicy = addIAM(Operation{Service: iam, Name: "GetRolePolicy", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName", "policyName"}})
	ListRolePolicies = addIAM(Operation{Service: iam, Name: "ListRolePolicies", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName"}})
	DeleteRolePolicy = addIAM(Operation{Service: iam, Name: "DeleteRolePolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"roleName", "policyName"}})
	TagRole = addIAM(Operation{Service: iam, Name: "TagRole", Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"}, Record: []string{"roleName", "tags"}})
	UntagRole = addIAM(Operation{Service: iam, Name: "UntagRole", Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:TagKeys"}, Record: []string{"roleName", "tagKeys"}})
	ListRoleTags = addIAM(Operation{Service: iam, Name: "ListRoleTags", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName"}})
	UpdateAssumeRolePolicy = addIAM(Operation{Service: iam, Name: "UpdateAssumeRolePolicy", Subject: Principal, IdentityOnly: true,
		Writes: true, Record: []string{"roleName", "policyDocument"}})
	ListAttachedRolePolicies = addIAM(Operation{Service: iam, Name: "ListAttachedRolePolicies", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName", "pathPrefix"}})
	ListInstanceProfilesForRole = addIAM(Operation{Service: iam, Name: "ListInstanceProfilesForRole", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"roleName"}})
)

// Groups.
var (
	CreateGroup = addIAM(Operation{Service: iam, Name: "CreateGroup", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"groupName", "path"}, Respond: []string{"group"}})
	GetGroup = addIAM(Operation{Service: iam, Name: "GetGroup", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"groupName"}})
	ListGroups = addIAM(Operation{Service: iam, Name: "ListGroups", Subject: Account, IdentityOnly: true,
		Read: true, Record: []string{"pathPrefix"}})
	DeleteGroup = addIAM(Operation{Service: iam, Name: "DeleteGroup", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"groupName"}})
	AddUserToGroup = addIAM(Operation{Service: iam, Name: "AddUserToGroup", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"groupName", "userName"}})
	RemoveUserFromGroup = addIAM(Operation{Service: iam, Name: "RemoveUserFromGroup", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"groupName", "userName"}})
	PutGroupPolicy = addIAM(Operation{Service: iam, Name: "PutGroupPolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"groupName", "policyName", "policyDocument"}})
	GetGroupPolicy = addIAM(Operation{Service: iam, Name: "GetGroupPolicy", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"groupName", "policyName"}})
	ListGroupPolicies = addIAM(Operation{Service: iam, Name: "ListGroupPolicies", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"groupName"}})
	DeleteGroupPolicy = addIAM(Operation{Service: iam, Name: "DeleteGroupPolicy", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"groupName", "policyName"}})
)

// Managed policies.
var (
	CreatePolicy = addIAM(Operation{Service: iam, Name: "CreatePolicy", Subject: ManagedPolicy, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"},
		Record:     []string{"policyName", "path", "policyDocument", "description", "tags"}, Respond: []string{"policy"}})
	GetPolicy = addIAM(Operation{Service: iam, Name: "GetPolicy", Subject: ManagedPolicy, IdentityOnly: true,
		Read: true, Record: []string{"policyArn"}})
	ListPolicies = addIAM(Operation{Service: iam, Name: "ListPolicies", Subject: Account, IdentityOnly: true,
		Read: true, Record: []string{"scope", "onlyAttached", "pathPrefix", "policyUsageFilter"}})
	DeletePolicy = addIAM(Operation{Service: iam, Name: "DeletePolicy", Subject: ManagedPolicy, IdentityOnly: true, Writes: true,
		Record: []string{"policyArn"}})
	CreatePolicyVersion = addIAM(Operation{Service: iam, Name: "CreatePolicyVersion", Subject: ManagedPolicy, IdentityOnly: true, Writes: true,
		Record: []string{"policyArn", "policyDocument", "setAsDefault"}, Respond: []string{"policyVersion"}})
	GetPolicyVersion = addIAM(Operation{Service: iam, Name: "GetPolicyVersion", Subject: ManagedPolicy, IdentityOnly: true,
		Read: true, Record: []string{"policyArn", "versionId"}})
	ListPolicyVersions = addIAM(Operation{Service: iam, Name: "ListPolicyVersions", Subject: ManagedPolicy, IdentityOnly: true,
		Read: true, Record: []string{"policyArn"}})
	SetDefaultPolicyVersion = addIAM(Operation{Service: iam, Name: "SetDefaultPolicyVersion", Subject: ManagedPolicy, IdentityOnly: true,
		Writes: true, Record: []string{"policyArn", "versionId"}})
	DeletePolicyVersion = addIAM(Operation{Service: iam, Name: "DeletePolicyVersion", Subject: ManagedPolicy, IdentityOnly: true, Writes: true,
		Record: []string{"policyArn", "versionId"}})
	TagPolicy = addIAM(Operation{Service: iam, Name: "TagPolicy", Subject: ManagedPolicy, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"}, Record: []string{"policyArn", "tags"}})
	UntagPolicy = addIAM(Operation{Service: iam, Name: "UntagPolicy", Subject: ManagedPolicy, IdentityOnly: true, Writes: true,
		Conditions: []string{"aws:TagKeys"}, Record: []string{"policyArn", "tagKeys"}})
	ListPolicyTags = addIAM(Operation{Service: iam, Name: "ListPolicyTags", Subject: ManagedPolicy, IdentityOnly: true,
		Read: true, Record: []string{"policyArn"}})
	ListEntitiesForPolicy = addIAM(Operation{Service: iam, Name: "ListEntitiesForPolicy", Subject: ManagedPolicy, IdentityOnly: true,
		Read: true, Record: []string{"policyArn", "entityFilter", "pathPrefix", "policyUsageFilter"}})
)

// Who has managed policies attached.
var (
	AttachUserPolicy  = addIAM(attaching("AttachUserPolicy", "userName"))
	AttachRolePolicy  = addIAM(attaching("AttachRolePolicy", "roleName"))
	AttachGroupPolicy = addIAM(attaching("AttachGroupPolicy", "groupName"))
	DetachUserPolicy  = addIAM(attaching("DetachUserPolicy", "userName"))
	DetachRolePolicy  = addIAM(attaching("DetachRolePolicy", "roleName"))
	DetachGroupPolicy = addIAM(attaching("DetachGroupPolicy", "groupName"))

	ListAttachedGroupPolicies = addIAM(Operation{Service: iam, Name: "ListAttachedGroupPolicies", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"groupName", "pathPrefix"}})
)

func attaching(name, member string) Operation {
	return Operation{Service: iam, Name: name, Subject: Principal, IdentityOnly: true, Writes: true,
		Conditions: []string{"iam:PolicyARN"}, Record: []string{member, "policyArn"}}
}

// Access keys, whoever they belong to. Those of the account's root, and nobody else's rights over them, are the root's alone.
var (
	CreateAccessKey = addIAM(Operation{Service: iam, Name: "CreateAccessKey", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"userName", "roleName"}, Respond: []string{"accessKey"}})
	ListAccessKeys = addIAM(Operation{Service: iam, Name: "ListAccessKeys", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"userName", "roleName"}})
	UpdateAccessKey = addIAM(Operation{Service: iam, Name: "UpdateAccessKey", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"userName", "roleName", "accessKeyId", "status"}})
	DeleteAccessKey = addIAM(Operation{Service: iam, Name: "DeleteAccessKey", Subject: Principal, IdentityOnly: true, Writes: true,
		Record: []string{"userName", "roleName", "accessKeyId"}})
	GetAccessKeyLastUsed = addIAM(Operation{Service: iam, Name: "GetAccessKeyLastUsed", Subject: Principal, IdentityOnly: true,
		Read: true, Record: []string{"accessKeyId"}})
)

// OIDC providers. Their keys are given by an operation of our own, see own.go, where AWS fetches them.
var (
	CreateOpenIDConnectProvider = addIAM(Operation{Service: iam, Name: "CreateOpenIDConnectProvider", Subject: OIDCProvider,
		IdentityOnly: true, Writes: true, Conditions: []string{"aws:RequestTag/", "aws:TagKeys"},
		Record: []string{"url", "clientIDList", "thumbprintList", "tags"}, Respond: []string{"openIDConnectProviderArn"}})
	GetOpenIDConnectProvider = addIAM(Operation{Service: iam, Name: "GetOpenIDConnectProvider", Subject: OIDCProvider, IdentityOnly: true,
		Read: true, Record: []string{"openIDConnectProviderArn"}})
	ListOpenIDConnectProviders = addIAM(Operation{Service: iam, Name: "ListOpenIDConnectProviders", Subject: Account, IdentityOnly: true,
		Read: true})
	DeleteOpenIDConnectProvider = addIAM(Operation{Service: iam, Name: "DeleteOpenIDConnectProvider", Subject: OIDCProvider,
		IdentityOnly: true, Writes: true, Record: []string{"openIDConnectProviderArn"}})
	AddClientIDToOpenIDConnectProvider = addIAM(Operation{Service: iam, Name: "AddClientIDToOpenIDConnectProvider", Subject: OIDCProvider,
		IdentityOnly: true, Writes: true, Record: []string{"openIDConnectProviderArn", "clientID"}})
	RemoveClientIDFromOpenIDConnectProvider = addIAM(Operation{Service: iam, Name: "RemoveClientIDFromOpenIDConnectProvider",
		Subject: OIDCProvider, IdentityOnly: true, Writes: true, Record: []string{"openIDConnectProviderArn", "clientID"}})
	UpdateOpenIDConnectProviderThumbprint = addIAM(Operation{Service: iam, Name: "UpdateOpenIDConnectProviderThumbprint",
		Subject: OIDCProvider, IdentityOnly: true, Writes: true, Record: []string{"openIDConnectProviderArn", "thumbprintList"}})
)
