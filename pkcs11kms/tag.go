package pkcs11kms

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// checkTag applies what the real service asks of a new tag beyond the API model. Tags that a key has already are left alone.
func checkTag(tag types.Tag) error {
	if form.ReservedTag(*tag.TagKey) {
		return apierr.Tag("Tags beginning with aws: are reserved")
	}
	if !form.TagText.MatchString(*tag.TagKey) || !form.TagText.MatchString(*tag.TagValue) {
		return apierr.Tag("A tag has a character that tags may not have. Use letters, digits, blanks and + - = . _ : / @")
	}
	return nil
}

// withTags returns the tags of a key after some were added or given another value, ordered by key.
func withTags(have []keystore.Tag, add []types.Tag, max int) ([]keystore.Tag, error) {
	if len(add) > max {
		return nil, apierr.Tag("Too many tags") // before anything takes time for them
	}
	seen := map[string]bool{}
	all := slices.Clone(have)
	for _, tag := range add {
		if seen[*tag.TagKey] {
			return nil, apierr.Tag("Duplicate tag keys")
		}
		seen[*tag.TagKey] = true
		if err := checkTag(tag); err != nil {
			return nil, err
		}
		all = slices.DeleteFunc(all, func(t keystore.Tag) bool { return t.Key == *tag.TagKey })
		all = append(all, keystore.Tag{Key: *tag.TagKey, Value: *tag.TagValue})
	}
	if len(all) > max {
		return nil, apierr.Tag("Too many tags")
	}
	slices.SortFunc(all, func(a, b keystore.Tag) int { return strings.Compare(a.Key, b.Key) })
	return all, nil
}

// TagResource adds tags to a key, or gives those that it has another value.
func (c *Client) TagResource(ctx context.Context, in *kms.TagResourceInput, optFns ...func(*kms.Options)) (*kms.TagResourceOutput, error) {
	return changeRecord(ctx, c, ops.TagResource, in, optFns, &kms.TagResourceOutput{},
		func(_ *Client, in *kms.TagResourceInput) (request, error) {
			return request{keyID: in.KeyId, given: givenTags(in.Tags)}, nil
		}, func(c *call, in *kms.TagResourceInput, record *keystore.Key) error {
			var err error
			record.Tags, err = withTags(record.Tags, in.Tags, c.bridge.cfg.Quotas.TagsPerKey)
			return err
		})
}

// UntagResource removes tags from a key. Those it does not have are ignored.
func (c *Client) UntagResource(
	ctx context.Context, in *kms.UntagResourceInput, optFns ...func(*kms.Options),
) (*kms.UntagResourceOutput, error) {
	return changeRecord(ctx, c, ops.UntagResource, in, optFns, &kms.UntagResourceOutput{},
		func(_ *Client, in *kms.UntagResourceInput) (request, error) {
			return request{keyID: in.KeyId, given: map[string][]string{"aws:tagkeys": in.TagKeys}}, nil
		}, func(_ *call, in *kms.UntagResourceInput, record *keystore.Key) error {
			record.Tags = slices.DeleteFunc(slices.Clone(record.Tags), func(t keystore.Tag) bool { return slices.Contains(in.TagKeys, t.Key) })
			if len(record.Tags) == 0 {
				record.Tags = nil
			}
			return nil
		})
}

// ListResourceTags returns the tags of a key, ordered by tag key; Limit 1 to 50, default 50.
func (c *Client) ListResourceTags(
	ctx context.Context, in *kms.ListResourceTagsInput, optFns ...func(*kms.Options),
) (*kms.ListResourceTagsOutput, error) {
	return perform(ctx, c, ops.ListResourceTags, in, optFns, func(_ *Client, in *kms.ListResourceTagsInput) (request, error) {
		return request{keyID: in.KeyId}, nil
	}, func(
		ctx context.Context, c *call, in *kms.ListResourceTagsInput, k *key,
	) (*kms.ListResourceTagsOutput, error) {
		out := &kms.ListResourceTagsOutput{Tags: []types.Tag{}}
		p := page{op: ops.ListResourceTags.Name, filter: k.Record.ID, limit: in.Limit, max: 50, normal: 50, marker: in.Marker}
		more, err := c.walk(ctx, p, tagsAfter(k.Record), func(rec keystore.Record) error {
			out.Tags = append(out.Tags, types.Tag{TagKey: aws.String(rec.Ref.ID), TagValue: aws.String(string(rec.Value))})
			return nil
		})
		out.Truncated, out.NextMarker = more != nil, more
		return out, err
	})
}

// tagsAfter reads the tags of a record as if each were a record of its own, so that they page like every other list.
func tagsAfter(record keystore.Key) reader {
	return func(_ context.Context, after string, limit int) (recs []keystore.Record, _ error) {
		for _, tag := range record.Tags {
			if tag.Key > after && len(recs) < limit {
				recs = append(recs, keystore.Record{Ref: keystore.Ref{ID: tag.Key}, Value: []byte(tag.Value)})
			}
		}
		return recs, nil
	}
}
