package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/keystore"
)

func (a *app) tagPrincipalCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("tag-{kind} --{kind}-name NAME --tags Key=NAME,Value=TEXT ...", "Add tags to a {kind}",
		"A tag that the {kind} has already, in whatever case, gets the new value. Prints nothing.",
		"tag-{kind} --{kind}-name {name} --tags Key=Stage,Value=test Key=Team,Value=id")
	name := k.named(in, "tags")
	var tags []keystore.Tag
	in.iamTags(&tags, "tags", iamTagsUsage+" (required)")
	return k.act(a, cmd, in, "Tag{Kind}", "tagging", name, func(ctx context.Context, client identities) error {
		return client.TagPrincipal(ctx, name(), tags)
	})
}

func (a *app) untagPrincipalCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("untag-{kind} --{kind}-name NAME --tag-keys NAME ...", "Remove tags from a {kind}",
		"Tags that the {kind} does not have are ignored. Prints nothing.",
		"untag-{kind} --{kind}-name {name} --tag-keys Stage Team")
	name := k.named(in, "tag-keys")
	var keys []string
	in.list(&keys, "tag-keys", "the keys of the tags (required)")
	return k.act(a, cmd, in, "Untag{Kind}", "untagging", name, func(ctx context.Context, client identities) error {
		return client.UntagPrincipal(ctx, name(), keys)
	})
}

func (a *app) listPrincipalTagsCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("list-{kind}-tags --{kind}-name NAME", "List the tags of a {kind}", "Prints its tags, ordered by key.",
		"list-{kind}-tags --{kind}-name {name}")
	name := k.named(in)
	return k.answer(a, cmd, in, "List{Kind}Tags", func(ctx context.Context, client identities) (any, error) {
		tags, err := client.ListPrincipalTags(ctx, name())
		return &struct{ Tags []iamTag }{append([]iamTag{}, iamTagsOf(tags)...)}, err
	})
}
