package iam

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

const maxTags = 50

var tagKeyPattern = regexp.MustCompile(`^` + form.TagCharacters + `+$`)

// checkTags checks the form of a list of tags by the rules of AWS IAM, which are tighter than those of AWS KMS.
func checkTags(v *form.Violations, tags []keystore.Tag) {
	v.Length("tags", len(tags), 0, maxTags)
	for i, tag := range tags {
		path := fmt.Sprintf("tags.%d.member.", i+1)
		v.Text(path+"key", tag.Key, 1, 128, tagKeyPattern)
		v.Text(path+"value", tag.Value, 0, 256, form.TagText)
	}
}

// checkTagKeys checks the form of a list of the keys of tags.
func checkTagKeys(keys []string) error {
	var v form.Violations
	v.Length("tagKeys", len(keys), 0, maxTags)
	for i := range keys {
		v.Text(fmt.Sprintf("tagKeys.%d.member", i+1), keys[i], 1, 128, tagKeyPattern)
	}
	return invalid(v)
}

// withTags returns the tags of a principal after some were added or given another value, ordered by key. Keys that
// differ in case alone are the same.
func withTags(t keystore.PrincipalType, have, add []keystore.Tag) ([]keystore.Tag, error) {
	all, err := joinTags(have, add, strings.EqualFold, "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
	if err == nil && len(all) > maxTags {
		err = quotaExceeded("TagsPer"+kindOf(t).entity, maxTags)
	}
	return all, err
}

// withPolicyTags is withTags of a managed policy, whose keys know case.
func withPolicyTags(have, add []keystore.Tag) ([]keystore.Tag, error) {
	all, err := joinTags(have, add, func(a, b string) bool { return a == b }, "Duplicate tag keys found.")
	if err == nil && len(all) > maxTags {
		err = failure(limitExceeded, "The number of tags has reached the maximum limit.")
	}
	return all, err
}

func joinTags(have, add []keystore.Tag, same func(a, b string) bool, duplicate string) ([]keystore.Tag, error) {
	all := slices.Clone(have)
	for i, tag := range add {
		is := func(other keystore.Tag) bool { return same(other.Key, tag.Key) }
		if slices.ContainsFunc(add[:i], is) {
			return nil, failure(invalidInput, "%s", duplicate)
		}
		if form.ReservedTag(tag.Key) {
			return nil, failure(invalidInput, "aws: prefixed tag key names are not allowed for external use.")
		}
		all = append(slices.DeleteFunc(all, is), tag)
	}
	slices.SortFunc(all, func(a, b keystore.Tag) int { return strings.Compare(a.Key, b.Key) })
	return all, nil
}

var (
	tagPrincipal      = byType{user: ops.TagUser, role: ops.TagRole}
	untagPrincipal    = byType{user: ops.UntagUser, role: ops.UntagRole}
	listPrincipalTags = byType{user: ops.ListUserTags, role: ops.ListRoleTags}
)

// TagPrincipal adds tags to a user or role, or gives those that it has another value. (TagUser, TagRole)
func (c *Client) TagPrincipal(ctx context.Context, name PrincipalName, tags []keystore.Tag) error {
	var v form.Violations
	checkTags(&v, tags)
	in := name.input()
	in["tags"] = tags
	req := request{input: in, form: invalid(v), given: RequestTags(tags)}
	return c.change(ctx, tagPrincipal, name, req, func(record *keystore.Principal) (err error) {
		record.Tags, err = withTags(name.Type, record.Tags, tags)
		return err
	})
}

// UntagPrincipal removes tags by their keys, in whatever case. Those that there are not are ignored. (UntagUser, UntagRole)
func (c *Client) UntagPrincipal(ctx context.Context, name PrincipalName, keys []string) error {
	in := name.input()
	in["tagKeys"] = keys
	req := request{input: in, form: checkTagKeys(keys), given: map[string][]string{"aws:tagkeys": keys}}
	return c.change(ctx, untagPrincipal, name, req, func(record *keystore.Principal) error {
		record.Tags = slices.DeleteFunc(slices.Clone(record.Tags), func(t keystore.Tag) bool {
			return slices.ContainsFunc(keys, func(key string) bool { return strings.EqualFold(key, t.Key) })
		})
		return nil
	})
}

// ListPrincipalTags returns the tags of a user or role, ordered by key. (ListUserTags, ListRoleTags)
func (c *Client) ListPrincipalTags(ctx context.Context, name PrincipalName) (tags []keystore.Tag, err error) {
	err = c.read(ctx, listPrincipalTags, name, name.input(), nil, func(record keystore.Principal) error {
		tags = record.Tags
		return nil
	})
	return answered(tags, err)
}
