package iam

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// The bounds of AWS STS for AssumeRole (its service model). A source identity may have 256 characters, as the service has it.
var (
	externalIDPattern = regexp.MustCompile(`^[\w+=,.@:\/-]*$`)
	roleARNPattern    = regexp.MustCompile(`^arn:[a-z-]+:iam::[0-9]{12}:role/([!-~]+/)?[\w+=,.@-]+$`)
)

const (
	leastDuration, mostDuration = 900, 43200
	maxSessionPolicy            = 2048 // characters
)

// checkAssumeRole checks what needs nothing but the input and the caller.
func (c *Client) checkAssumeRole(in AssumeRoleInput) error {
	var v form.Violations
	v.Text("roleArn", in.RoleARN, 20, 2048, nil)
	v.Text("roleSessionName", in.SessionName, 2, 64, namePattern)
	if in.Policy != nil {
		v.Hidden("policy", *in.Policy, 1, maxSessionPolicy, form.PolicyText)
	}
	if d := in.DurationSeconds; d != nil && (*d < leastDuration || *d > mostDuration) {
		bound := fmt.Sprintf("have value greater than or equal to %d", leastDuration)
		if *d > mostDuration {
			bound = fmt.Sprintf("have value less than or equal to %d", mostDuration)
		}
		v.Add(fmt.Sprintf("'%d'", *d), "durationSeconds", bound)
	}
	v.Length("policyArns", len(in.PolicyARNs), 0, maxAttached)
	in.checkSessionTags(&v)
	if in.ExternalID != nil {
		v.Text("externalId", *in.ExternalID, 2, 1224, externalIDPattern)
	}
	if in.SourceIdentity != nil {
		v.Text("sourceIdentity", *in.SourceIdentity, 2, 256, namePattern)
	}
	if err := invalid(v); err != nil {
		return err
	}
	if !roleARNPattern.MatchString(in.RoleARN) {
		return failure(validationError, "%s is invalid", in.RoleARN)
	}
	for _, arn := range in.PolicyARNs {
		if err := checkPolicyARN(arn); err != nil {
			return err
		}
	}
	if in.Policy != nil {
		if _, err := policy.ParseIdentityPolicy(*in.Policy); err != nil {
			return failure(malformedPolicyDocument, "%v", err)
		}
	}
	if err := in.tagsConflict(c.caller); err != nil {
		return err
	}
	return c.mayAskForRoles(in)
}

// mayAskForRoles refuses what no policy can allow the caller.
func (c *Client) mayAskForRoles(in AssumeRoleInput) error {
	own := c.caller.session
	switch {
	case c.caller.IsRoot():
		return failure(accessDenied, "Roles may not be assumed by root accounts.")
	case own != nil && own.SourceIdentity != "" && in.SourceIdentity != nil && *in.SourceIdentity != own.SourceIdentity:
		return failure(validationError, "The source identity is already set for this assume role session")
	}
	return nil
}

func (in AssumeRoleInput) checkSessionTags(v *form.Violations) {
	checkTags(v, in.Tags)
	v.Length("transitiveTagKeys", len(in.TransitiveTagKeys), 0, maxTags)
	for i, key := range in.TransitiveTagKeys {
		v.Text(fmt.Sprintf("transitiveTagKeys.%d.member", i+1), key, 1, 128, tagKeyPattern)
	}
}

// tagsConflict refuses session tags that name a key twice, and those of the caller's session that go into the next one.
func (in AssumeRoleInput) tagsConflict(caller Caller) error {
	inherited := caller.transitiveTags()
	for i, tag := range in.Tags {
		same := func(other keystore.Tag) bool { return strings.EqualFold(other.Key, tag.Key) }
		if slices.ContainsFunc(in.Tags[:i], same) {
			return failure(invalidParameterValue, "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		if form.ReservedTag(tag.Key) {
			return failure(invalidParameterValue, "aws: prefixed tag key names are not allowed for external use.")
		}
		if slices.ContainsFunc(inherited, func(own sessionTag) bool { return strings.EqualFold(own.Key, tag.Key) }) {
			return failure(invalidParameterValue, "One of the specified transitive tag keys can't be set because it conflicts with a "+
				"transitive tag key from the calling session.")
		}
	}
	for _, key := range in.TransitiveTagKeys {
		if !slices.ContainsFunc(in.Tags, func(tag keystore.Tag) bool { return strings.EqualFold(key, tag.Key) }) {
			return failure(invalidParameterValue, "The specified transitive tag key must be included in the requested tags.")
		}
	}
	return nil
}
