package server

import (
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// The inputs of AWS IAM, with the members of its model. What users, roles and groups have in common is written once and put together with
// how one of them is named.

type (
	tagShape struct {
		Key   *string `query:"required"`
		Value *string `query:"required"`
	}

	userInput struct {
		UserName *string `query:"required"`
	}
	optionalUser struct{ UserName *string }
	roleInput    struct {
		RoleName *string `query:"required"`
	}
	groupInput struct {
		GroupName *string `query:"required"`
	}
	createUserInput struct {
		UserName            *string `query:"required"`
		Path                *string
		PermissionsBoundary *string
		Tags                []tagShape
	}
	createRoleInput struct {
		RoleName                 *string `query:"required"`
		AssumeRolePolicyDocument *string `query:"required"`
		Path                     *string
		Description              *string
		MaxSessionDuration       *int32
		PermissionsBoundary      *string
		Tags                     []tagShape
	}
	updateRoleInput struct {
		RoleName           *string `query:"required"`
		Description        *string
		MaxSessionDuration *int32
	}
	trustInput struct {
		RoleName       *string `query:"required"`
		PolicyDocument *string `query:"required"`
	}
	listInput struct {
		PathPrefix *string
		page
	}
	accessKeysInput struct {
		UserName *string
		page
	}
	updateKeyInput struct {
		UserName    *string
		AccessKeyId *string `query:"required"`
		Status      *string `query:"required"`
	}
	deleteKeyInput struct {
		UserName    *string
		AccessKeyId *string `query:"required"`
	}
	accessKeyInput struct {
		AccessKeyId *string `query:"required"`
	}
)

func (in *userInput) principal() iam.PrincipalName  { return user(*in.UserName) }
func (in *roleInput) principal() iam.PrincipalName  { return role(*in.RoleName) }
func (in *groupInput) principal() iam.PrincipalName { return group(*in.GroupName) }

// What is asked for of a user, role or group, each with a method that returns it.
type (
	policyNamed struct {
		PolicyName *string `query:"required"`
	}
	policyGiven struct {
		PolicyName     *string `query:"required"`
		PolicyDocument *string `query:"required"`
	}
	tagsGiven struct {
		Tags []tagShape `query:"required"`
	}
	tagKeysGiven struct {
		TagKeys []string `query:"required"`
	}
	policyRef struct {
		PolicyArn *string `query:"required"`
	}
	prefixed struct {
		PathPrefix *string
		page
	}
)

// policyText is the name of an inline policy, and its document where there is one.
type policyText struct{ name, document string }

func (in *policyNamed) shared() policyText { return policyText{name: *in.PolicyName} }
func (in *policyGiven) shared() policyText { return policyText{*in.PolicyName, *in.PolicyDocument} }
func (in *tagsGiven) shared() []tagShape   { return in.Tags }
func (in *tagKeysGiven) shared() []string  { return in.TagKeys }
func (in *policyRef) shared() string       { return *in.PolicyArn }
func (p page) shared() page                { return p }

// listed is the prefix and the page that a list is asked for.
func (in *prefixed) listed() (string, page) { return text(in.PathPrefix), in.page }

type (
	userPage struct {
		userInput
		page
	}
	rolePage struct {
		roleInput
		page
	}
	groupPage struct {
		groupInput
		page
	}
	userPolicy struct {
		userInput
		policyNamed
	}
	rolePolicy struct {
		roleInput
		policyNamed
	}
	groupPolicy struct {
		groupInput
		policyNamed
	}
	userPolicyDocument struct {
		userInput
		policyGiven
	}
	rolePolicyDocument struct {
		roleInput
		policyGiven
	}
	groupPolicyDocument struct {
		groupInput
		policyGiven
	}
	userTags struct {
		userInput
		tagsGiven
	}
	roleTags struct {
		roleInput
		tagsGiven
	}
	userTagKeys struct {
		userInput
		tagKeysGiven
	}
	roleTagKeys struct {
		roleInput
		tagKeysGiven
	}
	userAttachment struct {
		userInput
		policyRef
	}
	roleAttachment struct {
		roleInput
		policyRef
	}
	groupAttachment struct {
		groupInput
		policyRef
	}
	userAttached struct {
		userInput
		prefixed
	}
	roleAttached struct {
		roleInput
		prefixed
	}
	groupAttached struct {
		groupInput
		prefixed
	}

	createGroupInput struct {
		groupInput
		Path *string
	}
	membershipInput struct {
		groupInput
		userInput
	}

	createPolicyInput struct {
		PolicyName     *string `query:"required"`
		Path           *string
		PolicyDocument *string `query:"required"`
		Description    *string
		Tags           []tagShape
	}
	listPoliciesInput struct {
		Scope             *string
		OnlyAttached      *bool
		PathPrefix        *string
		PolicyUsageFilter *string
		page
	}
	createVersionInput struct {
		policyRef
		PolicyDocument *string `query:"required"`
		SetAsDefault   *bool
	}
	versionInput struct {
		policyRef
		VersionId *string `query:"required"`
	}
	policyPage struct {
		policyRef
		page
	}
	entitiesInput struct {
		policyRef
		EntityFilter      *string
		PathPrefix        *string
		PolicyUsageFilter *string
		page
	}
	policyTags struct {
		policyRef
		tagsGiven
	}
	policyTagKeys struct {
		policyRef
		tagKeysGiven
	}
)
