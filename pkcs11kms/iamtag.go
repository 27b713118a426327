package pkcs11kms

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
)

const maxPrincipalTags = 50

var (
	iamTagKeyPattern   = regexp.MustCompile(`^` + tagCharacters + `+$`)
	iamTagValuePattern = tagPattern
)

// iamTags checks the form of a list of tags by the rules of AWS IAM, which are tighter than those of AWS KMS.
func iamTags(v *form.Violations, tags []keystore.Tag) {
	v.Length("tags", len(tags), 0, maxPrincipalTags)
	for i, tag := range tags {
		path := fmt.Sprintf("tags.%d.member.", i+1)
		v.Text(path+"key", tag.Key, 1, 128, iamTagKeyPattern)
		v.Text(path+"value", tag.Value, 0, 256, iamTagValuePattern)
	}
}

// withPrincipalTags returns the tags of a principal after some were added or given another value, ordered by key. Keys that
// differ in case alone are the same.
func withPrincipalTags(t keystore.PrincipalType, have, add []keystore.Tag) ([]keystore.Tag, error) {
	all := slices.Clone(have)
	for i, tag := range add {
		same := func(other keystore.Tag) bool { return strings.EqualFold(other.Key, tag.Key) }
		if slices.ContainsFunc(add[:i], same) {
			return nil, iamError(iamInvalidInput, "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		if reservedTag(tag.Key) {
			return nil, iamError(iamInvalidInput, "aws: prefixed tag key names are not allowed for external use.")
		}
		all = append(slices.DeleteFunc(all, same), tag)
	}
	if len(all) > maxPrincipalTags {
		return nil, quotaExceeded("TagsPer"+kindOf(t).entity, maxPrincipalTags)
	}
	slices.SortFunc(all, func(a, b keystore.Tag) int { return strings.Compare(a.Key, b.Key) })
	return all, nil
}

// TagPrincipal adds tags to a user or role, or gives those that it has another value.
func (b *Bridge) TagPrincipal(ctx context.Context, name PrincipalName, tags []keystore.Tag) error {
	var v form.Violations
	iamTags(&v, tags)
	if err := iamInvalid(v); err != nil {
		return err
	}
	return b.changePrincipal(ctx, name, func(record *keystore.Principal) (err error) {
		record.Tags, err = withPrincipalTags(name.Type, record.Tags, tags)
		return err
	})
}

// UntagPrincipal removes tags by their keys, in whatever case. Those that there are not are ignored.
func (b *Bridge) UntagPrincipal(ctx context.Context, name PrincipalName, keys []string) error {
	var v form.Violations
	v.Length("tagKeys", len(keys), 0, maxPrincipalTags)
	for i := range keys {
		v.Text(fmt.Sprintf("tagKeys.%d.member", i+1), keys[i], 1, 128, iamTagKeyPattern)
	}
	if err := iamInvalid(v); err != nil {
		return err
	}
	return b.changePrincipal(ctx, name, func(record *keystore.Principal) error {
		record.Tags = slices.DeleteFunc(slices.Clone(record.Tags), func(t keystore.Tag) bool {
			return slices.ContainsFunc(keys, func(key string) bool { return strings.EqualFold(key, t.Key) })
		})
		return nil
	})
}
