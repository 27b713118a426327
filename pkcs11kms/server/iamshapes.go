package server

import (
	"net/url"
	"strings"
	"time"

	"github.com/aws/smithy-go"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// The outputs of AWS IAM, with the members of its model in the order of its answers.

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
	groupShape struct {
		Path, GroupName, GroupId, Arn string
		CreateDate                    time.Time
	}
	managedShape struct {
		PolicyName, PolicyId, Arn, Path, DefaultVersionId string
		AttachmentCount, PermissionsBoundaryUsageCount    int
		IsAttachable                                      bool
		Description                                       *string
		CreateDate, UpdateDate                            time.Time
		Tags                                              []tagShape
	}
	versionShape struct {
		Document, VersionId string
		IsDefaultVersion    bool
		CreateDate          time.Time
	}
	attachedShape  struct{ PolicyName, PolicyArn string }
	entityGroup    struct{ GroupName, GroupId string }
	entityUser     struct{ UserName, UserId string }
	entityRole     struct{ RoleName, RoleId string }
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
	groupPolicyOutput struct{ GroupName, PolicyName, PolicyDocument string }
	attachedOutput    struct {
		AttachedPolicies []attachedShape
		paged
	}
	groupOutput  struct{ Group *groupShape }
	groupsOutput struct {
		Groups []groupShape
		paged
	}
	groupUsersOutput struct {
		Group *groupShape
		Users []userShape
		paged
	}
	policyOutput   struct{ Policy *managedShape }
	policiesOutput struct {
		Policies []managedShape
		paged
	}
	versionOutput  struct{ PolicyVersion *versionShape }
	versionsOutput struct {
		Versions []versionShape
		paged
	}
	entitiesOutput struct {
		PolicyGroups []entityGroup
		PolicyUsers  []entityUser
		PolicyRoles  []entityRole
		paged
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

func shownGroup(p iam.Principal) *groupShape {
	return &groupShape{Path: p.Path, GroupName: p.Name, GroupId: p.ID, Arn: p.ARN, CreateDate: p.Created}
}

// shownPolicy is a managed policy as lists show it.
func shownPolicy(p iam.Policy) *managedShape {
	return &managedShape{PolicyName: p.Name, PolicyId: p.ID, Arn: p.ARN, Path: p.Path, DefaultVersionId: p.DefaultVersion,
		AttachmentCount: p.AttachmentCount, IsAttachable: true, CreateDate: p.Created, UpdateDate: p.Updated, Tags: shownTags(p.Tags)}
}

func shownVersion(v iam.PolicyVersion) *versionShape {
	return &versionShape{Document: escaped(v.Document), VersionId: v.ID, IsDefaultVersion: v.IsDefault, CreateDate: v.Created}
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

var noBoundaries = validation("This service has no permissions boundaries.")
