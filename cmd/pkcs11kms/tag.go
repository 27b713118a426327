package main

import (
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
)

func tagChange(doing string, keyID *string) change {
	id := aws.ToString(keyID)
	return change{fmt.Sprintf("%s key %q", doing, id), "to see its tags: pkcs11kms list-resource-tags --key-id " + shellQuote(id)}
}

func (a *app) tagResourceCommand() *cobra.Command {
	cmd := verb(groupTags, "tag-resource --key-id ID --tags TagKey=NAME,TagValue=TEXT ...", "Add tags to a key",
		"A tag that the key has already gets the new value. Prints nothing.",
		"pkcs11kms tag-resource --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --tags TagKey=Purpose,TagValue=tokens TagKey=Stage,TagValue=test")
	var req kms.TagResourceInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.tags(&req.Tags, "tags", tagsUsage+" (required)")
	in.require("key-id", "tags")
	cmd.RunE = changing(a, in, "TagResource", api.TagResource, &req, func(*kms.TagResourceOutput) change {
		return tagChange("tagging", req.KeyId)
	})
	return cmd
}

func (a *app) untagResourceCommand() *cobra.Command {
	cmd := verb(groupTags, "untag-resource --key-id ID --tag-keys NAME ...", "Remove tags from a key",
		"Tags that the key does not have are ignored. Prints nothing.",
		"pkcs11kms untag-resource --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --tag-keys Purpose Stage")
	var req kms.UntagResourceInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.list(&req.TagKeys, "tag-keys", "the keys of the tags (required)")
	in.require("key-id", "tag-keys")
	cmd.RunE = changing(a, in, "UntagResource", api.UntagResource, &req, func(*kms.UntagResourceOutput) change {
		return tagChange("untagging", req.KeyId)
	})
	return cmd
}

var tagList = list[kms.ListResourceTagsInput, kms.ListResourceTagsOutput, types.Tag]{
	operation: "ListResourceTags",
	call:      api.ListResourceTags,
	asked:     func(in *kms.ListResourceTagsInput) (**int32, **string) { return &in.Limit, &in.Marker },
	answered: func(out *kms.ListResourceTagsOutput) (*[]types.Tag, bool, *string) {
		return &out.Tags, out.Truncated, out.NextMarker
	},
}

func (a *app) listResourceTagsCommand() *cobra.Command {
	cmd := verb(groupTags, "list-resource-tags --key-id ID [flags]", "List the tags of a key",
		"Prints all tags of the key.\n"+pagingHelp,
		"pkcs11kms list-resource-tags --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.ListResourceTagsInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.require("key-id")
	cmd.RunE = listing(a, cmd, in, tagList, &req)
	return cmd
}
