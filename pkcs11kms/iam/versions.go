package iam

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// The versions of managed policies, and their tags.

func versionOf(record keystore.ManagedPolicy, v keystore.PolicyVersion) PolicyVersion {
	return PolicyVersion{ID: versionID(v.Number), IsDefault: v.Number == record.Default, Created: v.Created, Document: v.Document}
}

// changePolicy makes a call that commits what edit makes of the record of a managed policy. Another default version is another revision.
func (c *Client) changePolicy(ctx context.Context, op *ops.Operation, arn string, req request,
	edit func(*call, *keystore.ManagedPolicy) error) error {
	req.input["policyArn"] = arn
	req.form, req.find = cmp.Or(checkPolicyARN(arn), req.form), c.aboutPolicy(arn, noSuchManagedPolicy)
	return c.perform(ctx, op, req, func(ctx context.Context, x *call, s subject) error {
		record := s.policy
		record.Versions = slices.Clone(record.Versions)
		if err := edit(x, &record); err != nil {
			return err
		}
		if record.Default == s.policy.Default {
			return x.commitPolicy(ctx, record, s.policyVersion)
		}
		record.Revision++
		counted, err := x.policiesChanged(ctx)
		if err != nil {
			return err
		}
		return x.commitPolicy(ctx, record, s.policyVersion, counted)
	})
}

// CreatePolicyVersion gives a managed policy one more version, and makes it the one that counts if asked to. LimitExceeded beyond five.
// (CreatePolicyVersion)
func (c *Client) CreatePolicyVersion(ctx context.Context, arn, document string, setAsDefault bool) (made PolicyVersion, err error) {
	req := request{input: input{"policyDocument": document, "setAsDefault": setAsDefault}, form: checkManaged(document)}
	err = c.changePolicy(ctx, ops.CreatePolicyVersion, arn, req, func(x *call, record *keystore.ManagedPolicy) error {
		if len(record.Versions) >= maxPolicyVersions {
			return failure(limitExceeded, "A managed policy can have up to %d versions. Before you create a new version, you must delete an "+
				"existing version.", maxPolicyVersions)
		}
		record.Last++
		record.Updated = x.Now().UTC().Truncate(time.Second)
		version := keystore.PolicyVersion{Number: record.Last, Created: record.Updated, Document: document}
		record.Versions = append(record.Versions, version)
		if setAsDefault {
			record.Default = record.Last
		}
		made = versionOf(*record, version)
		made.Document = ""
		x.output = map[string]any{"policyVersion": made.shown()}
		return nil
	})
	return answered(made, err)
}

// GetPolicyVersion returns a version of a managed policy with its document as it was given. (GetPolicyVersion)
func (c *Client) GetPolicyVersion(ctx context.Context, arn, id string) (found PolicyVersion, err error) {
	err = c.readPolicy(ctx, ops.GetPolicyVersion, arn, input{"versionId": id}, checkVersion(id),
		func(_ context.Context, record keystore.ManagedPolicy) error {
			version, ok := record.Version(versionNumber(id))
			if !ok {
				return noSuchVersion(arn, id)
			}
			found = versionOf(record, version)
			return nil
		})
	return answered(found, err)
}

// ListPolicyVersions returns the versions of a managed policy without their documents, the newest first. (ListPolicyVersions)
func (c *Client) ListPolicyVersions(ctx context.Context, arn string) (list []PolicyVersion, err error) {
	err = c.readPolicy(ctx, ops.ListPolicyVersions, arn, input{}, nil, func(_ context.Context, record keystore.ManagedPolicy) error {
		list = []PolicyVersion{}
		for _, version := range slices.Backward(record.Versions) {
			version.Document = ""
			list = append(list, versionOf(record, version))
		}
		return nil
	})
	return answered(list, err)
}

// SetDefaultPolicyVersion says which version of a managed policy counts: at once in this process, within a second in every other, for
// all who have the policy. (SetDefaultPolicyVersion)
func (c *Client) SetDefaultPolicyVersion(ctx context.Context, arn, id string) error {
	req := request{input: input{"versionId": id}, form: checkVersion(id)}
	return c.changePolicy(ctx, ops.SetDefaultPolicyVersion, arn, req, func(_ *call, record *keystore.ManagedPolicy) error {
		version, ok := record.Version(versionNumber(id))
		if !ok {
			return noSuchVersion(arn, id)
		}
		record.Default = version.Number
		return nil
	})
}

// DeletePolicyVersion removes a version that does not count. Its number is not used again. (DeletePolicyVersion)
func (c *Client) DeletePolicyVersion(ctx context.Context, arn, id string) error {
	req := request{input: input{"versionId": id}, form: checkVersion(id)}
	return c.changePolicy(ctx, ops.DeletePolicyVersion, arn, req, func(_ *call, record *keystore.ManagedPolicy) error {
		number := versionNumber(id)
		switch _, ok := record.Version(number); {
		case !ok:
			return noSuchVersion(arn, id)
		case number == record.Default:
			return failure(deleteConflict, "Cannot delete the default version of a policy.")
		}
		record.Versions = slices.DeleteFunc(record.Versions, func(v keystore.PolicyVersion) bool { return v.Number == number })
		return nil
	})
}

// TagPolicy adds tags to a managed policy, or gives those that it has another value. Their keys know case. (TagPolicy)
func (c *Client) TagPolicy(ctx context.Context, arn string, tags []keystore.Tag) error {
	var v form.Violations
	checkTags(&v, tags)
	req := request{input: input{"tags": tags}, form: invalid(v), given: RequestTags(tags)}
	return c.changePolicy(ctx, ops.TagPolicy, arn, req, func(_ *call, record *keystore.ManagedPolicy) (err error) {
		record.Tags, err = withPolicyTags(record.Tags, tags)
		return err
	})
}

// UntagPolicy removes tags of a managed policy by their keys. Those that there are not are ignored. (UntagPolicy)
func (c *Client) UntagPolicy(ctx context.Context, arn string, keys []string) error {
	req := request{input: input{"tagKeys": keys}, form: checkTagKeys(keys), given: map[string][]string{"aws:tagkeys": keys}}
	return c.changePolicy(ctx, ops.UntagPolicy, arn, req, func(_ *call, record *keystore.ManagedPolicy) error {
		record.Tags = slices.DeleteFunc(slices.Clone(record.Tags), func(t keystore.Tag) bool { return slices.Contains(keys, t.Key) })
		return nil
	})
}

// ListPolicyTags returns the tags of a managed policy, ordered by key. (ListPolicyTags)
func (c *Client) ListPolicyTags(ctx context.Context, arn string) (tags []keystore.Tag, err error) {
	err = c.readPolicy(ctx, ops.ListPolicyTags, arn, input{}, nil, func(_ context.Context, record keystore.ManagedPolicy) error {
		tags = record.Tags
		return nil
	})
	return answered(tags, err)
}
