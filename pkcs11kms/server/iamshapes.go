package server

import (
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/smithy-go"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
)

// The inputs and outputs of AWS IAM, with the members of its model in the order of its answers.

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
	userPage struct {
		UserName *string `query:"required"`
		page
	}
	rolePage struct {
		RoleName *string `query:"required"`
		page
	}
	userPolicy struct {
		UserName   *string `query:"required"`
		PolicyName *string `query:"required"`
	}
	rolePolicy struct {
		RoleName   *string `query:"required"`
		PolicyName *string `query:"required"`
	}
	userPolicyDocument struct {
		UserName       *string `query:"required"`
		PolicyName     *string `query:"required"`
		PolicyDocument *string `query:"required"`
	}
	rolePolicyDocument struct {
		RoleName       *string `query:"required"`
		PolicyName     *string `query:"required"`
		PolicyDocument *string `query:"required"`
	}
	userTags struct {
		UserName *string    `query:"required"`
		Tags     []tagShape `query:"required"`
	}
	roleTags struct {
		RoleName *string    `query:"required"`
		Tags     []tagShape `query:"required"`
	}
	userTagKeys struct {
		UserName *string  `query:"required"`
		TagKeys  []string `query:"required"`
	}
	roleTagKeys struct {
		RoleName *string  `query:"required"`
		TagKeys  []string `query:"required"`
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

func (in *userInput) principal() iam.PrincipalName          { return user(*in.UserName) }
func (in *roleInput) principal() iam.PrincipalName          { return role(*in.RoleName) }
func (in *userPage) principal() iam.PrincipalName           { return user(*in.UserName) }
func (in *rolePage) principal() iam.PrincipalName           { return role(*in.RoleName) }
func (in *userPolicy) principal() iam.PrincipalName         { return user(*in.UserName) }
func (in *rolePolicy) principal() iam.PrincipalName         { return role(*in.RoleName) }
func (in *userPolicyDocument) principal() iam.PrincipalName { return user(*in.UserName) }
func (in *rolePolicyDocument) principal() iam.PrincipalName { return role(*in.RoleName) }
func (in *userTags) principal() iam.PrincipalName           { return user(*in.UserName) }
func (in *roleTags) principal() iam.PrincipalName           { return role(*in.RoleName) }
func (in *userTagKeys) principal() iam.PrincipalName        { return user(*in.UserName) }
func (in *roleTagKeys) principal() iam.PrincipalName        { return role(*in.RoleName) }

// policyText is the name of an inline policy, and its document where there is one.
type policyText struct{ name, document string }

func (in *userPolicy) shared() policyText { return policyText{name: *in.PolicyName} }
func (in *rolePolicy) shared() policyText { return policyText{name: *in.PolicyName} }
func (in *userPolicyDocument) shared() policyText {
	return policyText{*in.PolicyName, *in.PolicyDocument}
}
func (in *rolePolicyDocument) shared() policyText {
	return policyText{*in.PolicyName, *in.PolicyDocument}
}
func (in *userPage) shared() page        { return in.page }
func (in *rolePage) shared() page        { return in.page }
func (in *userTags) shared() []tagShape  { return in.Tags }
func (in *roleTags) shared() []tagShape  { return in.Tags }
func (in *userTagKeys) shared() []string { return in.TagKeys }
func (in *roleTagKeys) shared() []string { return in.TagKeys }

type (
	userShape struct {
		Path, UserName, UserId, Arn string
		CreateDate                  time.Time
		Tags                        []tagShape
	}
	roleShape struct {
		Path, RoleName, RoleId, Arn string
		CreateDate                  time.Time
		AssumeRolePolicyDocument    *string
		Description                 *string
		MaxSessionDuration          *int32
		Tags                        []tagShape
		RoleLastUsed                *nothing
	}
	accessKeyShape struct {
		UserName, AccessKeyId, Status string
		SecretAccessKey               *string
		CreateDate                    time.Time
	}
	lastUsedShape struct {
		LastUsedDate        time.Time
		ServiceName, Region string
	}

	userOutput  struct{ User *userShape }
	usersOutput struct {
		Users []userShape
		paged
	}
	roleOutput  struct{ Role *roleShape }
	rolesOutput struct {
		Roles []roleShape
		paged
	}
	userPolicyOutput  struct{ UserName, PolicyName, PolicyDocument string }
	rolePolicyOutput  struct{ RoleName, PolicyName, PolicyDocument string }
	policyNamesOutput struct {
		PolicyNames []string
		paged
	}
	tagsOutput struct {
		Tags []tagShape
		paged
	}
	attachedOutput struct {
		AttachedPolicies []nothing
		IsTruncated      bool
	}
	groupsOutput struct {
		Groups      []nothing
		IsTruncated bool
	}
	profilesOutput struct {
		InstanceProfiles []nothing
		IsTruncated      bool
	}
	accessKeyOutput  struct{ AccessKey accessKeyShape }
	accessKeysOutput struct {
		AccessKeyMetadata []accessKeyShape
		paged
	}
	lastUsedOutput struct {
		UserName          string
		AccessKeyLastUsed lastUsedShape
	}
)

func shownUser(p iam.Principal, tags bool) *userShape {
	shown := &userShape{Path: p.Path, UserName: p.Name, UserId: p.ID, Arn: p.ARN, CreateDate: p.Created}
	if tags {
		shown.Tags = shownTags(p.Tags)
	}
	return shown
}

func shownRole(p iam.Principal) *roleShape {
	shown := &roleShape{Path: p.Path, RoleName: p.Name, RoleId: p.ID, Arn: p.ARN, CreateDate: p.Created,
		MaxSessionDuration: &p.MaxSessionDuration, Tags: shownTags(p.Tags)}
	if p.TrustPolicy != "" {
		trust := escaped(p.TrustPolicy)
		shown.AssumeRolePolicyDocument = &trust
	}
	if p.Description != "" {
		shown.Description = &p.Description
	}
	return shown
}

// shownTags is nil where there are none.
func shownTags(tags []keystore.Tag) (shown []tagShape) {
	for _, tag := range tags {
		shown = append(shown, tagShape{&tag.Key, &tag.Value})
	}
	return shown
}

func tagsOf(given []tagShape) (tags []keystore.Tag) {
	for _, tag := range given {
		tags = append(tags, keystore.Tag{Key: *tag.Key, Value: *tag.Value})
	}
	return tags
}

// escaped writes a policy document as IAM answers with it: as a part of a URL, with blanks as %20.
func escaped(document string) string {
	return strings.ReplaceAll(url.QueryEscape(document), "+", "%20")
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func validation(message string) error {
	return &smithy.GenericAPIError{Code: "ValidationError", Message: message, Fault: smithy.FaultClient}
}

var noBoundaries = validation("This service has no managed policies, and so no permissions boundaries.")

// page is what a list is asked for: how many, after which.
type page struct {
	Marker   *string
	MaxItems *int32
}

// paged is what an answer tells of the rest of a list.
type paged struct {
	IsTruncated bool
	Marker      *string
}

const defaultItems, mostItems = 100, 1000

func (p page) check() error {
	var v form.Violations
	if n := p.MaxItems; n != nil && *n < 1 {
		v.Add(strconv.Itoa(int(*n)), "maxItems", "have value greater than or equal to 1")
	} else if n != nil && *n > mostItems {
		v.Add(strconv.Itoa(int(*n)), "maxItems", "have value less than or equal to "+strconv.Itoa(mostItems))
	}
	if len(v) > 0 {
		return validation(v.String())
	}
	if p.Marker != nil {
		if _, err := base64.RawURLEncoding.DecodeString(*p.Marker); err != nil || *p.Marker == "" {
			return validation("Invalid Marker.")
		}
	}
	return nil
}

// pageOf returns the part of a list that is asked for, by a page that was checked. A marker names the last item of the part before, so that
// what has come or gone meanwhile moves nothing. name is what the list is ordered by.
func pageOf[T any](all []T, p page, name func(T) string) (part []T, next paged) {
	if p.Marker != nil {
		after, _ := base64.RawURLEncoding.DecodeString(*p.Marker)
		for len(all) > 0 && name(all[0]) <= string(after) {
			all = all[1:]
		}
	}
	n := defaultItems
	if p.MaxItems != nil {
		n = int(*p.MaxItems)
	}
	if len(all) <= n {
		return all, next
	}
	marker := base64.RawURLEncoding.EncodeToString([]byte(name(all[n-1])))
	return all[:n], paged{true, &marker}
}

// nameOfPrincipal is what users and roles are ordered by.
func nameOfPrincipal(p iam.Principal) string { return strings.ToLower(p.Name) }
