package pkcs11kms

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"
)

// life is the service beside its model.
type life struct {
	model
	t   *testing.T
	clk *clock
}

// step is one operation: what the service answers, and what the model does.
type step struct {
	name string
	real func() (answer string, err error)
	want func() string
}

// answerText is an answer as the model has it.
func answerText(answer string, err error) string {
	if err == nil {
		return answer
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode() + ": " + api.ErrorMessage()
	}
	return err.Error()
}

// silent is the answer of operations that return nothing of interest.
func silent[Out any](_ Out, err error) (string, error) { return answerOK, err }

// changes are the operations that change one key or one name, with one text.
func (l *life) changes(c *Client, k *modelKey, name, text string) []step {
	ctx, id := l.t.Context(), &k.id
	setState := func(state types.KeyState) func() string {
		return func() string { return change(k.changeable(), func() { k.state = state }) }
	}
	return []step{
		{"CreateAlias", func() (string, error) {
			return silent(c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &name, TargetKeyId: id}))
		}, func() string { return l.createAlias(name, k) }},
		{"UpdateAlias", func() (string, error) {
			return silent(c.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: &name, TargetKeyId: id}))
		}, func() string { return l.updateAlias(name, k) }},
		{"DeleteAlias", func() (string, error) {
			return silent(c.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: &name}))
		}, func() string { return l.deleteAlias(name) }},
		{"TagResource", func() (string, error) {
			return silent(c.TagResource(ctx, &kms.TagResourceInput{KeyId: id, Tags: []types.Tag{{TagKey: &text, TagValue: &name}}}))
		}, func() string { return change(k.changeable(), func() { k.tags[text] = name }) }},
		{"UntagResource", func() (string, error) {
			return silent(c.UntagResource(ctx, &kms.UntagResourceInput{KeyId: id, TagKeys: []string{text}}))
		}, func() string { return change(k.changeable(), func() { delete(k.tags, text) }) }},
		{"UpdateKeyDescription", func() (string, error) {
			return silent(c.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: id, Description: &text}))
		}, func() string { return change(k.changeable(), func() { k.description = text }) }},
		{"EnableKey", func() (string, error) { return answerOK, toggle(ctx, c, id, true) }, setState(types.KeyStateEnabled)},
		{"DisableKey", func() (string, error) { return answerOK, toggle(ctx, c, id, false) }, setState(types.KeyStateDisabled)},
		{"PutKeyPolicy", func() (string, error) {
			return silent(c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: id, Policy: &l.policy}))
		}, k.there},
		{"ScheduleKeyDeletion", func() (string, error) {
			out, err := c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: id, PendingWindowInDays: aws.Int32(modelWindow)})
			if err == nil &&
				(*out.KeyId != k.arn || !out.DeletionDate.Equal(l.now.Add(modelWindow*day)) || out.KeyState != types.KeyStatePendingDeletion) {
				return fmt.Sprintf("%+v", out), nil
			}
			return answerOK, err
		}, func() string { return l.schedule(k) }},
		{"CancelKeyDeletion", func() (string, error) {
			return silent(c.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: id}))
		}, k.cancel},
	}
}

// reads are the operations that tell something of one key or one name. Lists are read in pages of some size.
func (l *life) reads(c *Client, k *modelKey, name string, size int32) []step {
	ctx, id := l.t.Context(), &k.id
	byName := func(want func(*modelKey) string) func() string {
		return func() string {
			if l.aliases[name] == nil {
				return noAlias(name)
			}
			return want(l.aliases[name])
		}
	}
	return []step{
		{"DescribeKey", func() (string, error) { return l.describe(c, id) }, k.metadata},
		{"DescribeKey by alias", func() (string, error) { return l.describe(c, &name) }, byName((*modelKey).metadata)},
		{"GenerateMac", func() (string, error) { return l.generate(c, k, id) }, k.usable},
		{"GenerateMac by alias", func() (string, error) { return l.generate(c, l.aliases[name], &name) }, byName((*modelKey).usable)},
		{"VerifyMac of another message", func() (string, error) { return answerOK, verify(ctx, c, id, []byte("n"), make([]byte, 32)) },
			func() string {
				if k.usable() == answerOK {
					return "KMSInvalidMacException: "
				}
				return k.usable()
			}},
		{"GetKeyPolicy", func() (string, error) {
			out, err := c.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: id})
			if err != nil {
				return "", err
			}
			return answerOK + *out.Policy, nil
		}, k.tells(func() string { return answerOK + l.policy })},
		{"ListKeys", func() (string, error) { return l.listKeys(c, size) }, func() string {
			ids := []string{}
			for _, k := range l.live() {
				ids = append(ids, k.id)
			}
			return fmt.Sprint(ids)
		}},
		{"ListAliases", func() (string, error) { return l.listAliases(c, nil, size) }, func() string { return fmt.Sprint(l.namesOf(nil)) }},
		{"ListAliases of a key", func() (string, error) { return l.listAliases(c, id, size) },
			k.tells(func() string { return fmt.Sprint(l.namesOf(k)) })},
		{"ListResourceTags", func() (string, error) { return l.listTags(c, id, size) },
			k.tells(func() string { return fmt.Sprint(k.tagTexts()) })},
		{"ListKeyPolicies", func() (string, error) {
			out, err := c.ListKeyPolicies(ctx, &kms.ListKeyPoliciesInput{KeyId: id})
			if err != nil {
				return "", err
			}
			return answerOK + fmt.Sprint(out.PolicyNames), nil
		}, k.tells(func() string { return answerOK + fmt.Sprint([]string{policyName}) })},
	}
}

func (l *life) describe(c *Client, id *string) (string, error) {
	out, err := c.DescribeKey(l.t.Context(), &kms.DescribeKeyInput{KeyId: id})
	if err != nil {
		return "", err
	}
	m := out.KeyMetadata
	return metadataText(*m.KeyId, *m.Arn, m.KeyState, m.Enabled, aws.ToTime(m.DeletionDate), *m.Description), nil
}

// pager is a paginator of the SDK.
type pager[Out any] interface {
	HasMorePages() bool
	NextPage(context.Context, ...func(*kms.Options)) (*Out, error)
}

// inPages reads a list to its end. No page but the last is short.
func inPages[Out any](ctx context.Context, size int32, pages pager[Out], names func(*Out) []string) (string, error) {
	all := []string{}
	for pages.HasMorePages() {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return "", err
		}
		found := names(out)
		if len(found) > int(size) || len(found) < int(size) && pages.HasMorePages() {
			return fmt.Sprintf("a page of %d instead of %d", len(found), size), nil
		}
		all = append(all, found...)
	}
	return fmt.Sprint(all), nil
}

func (l *life) listKeys(c *Client, size int32) (string, error) {
	pages := kms.NewListKeysPaginator(c, &kms.ListKeysInput{Limit: &size})
	return inPages(l.t.Context(), size, pages, func(out *kms.ListKeysOutput) (names []string) {
		for _, k := range out.Keys {
			names = append(names, *k.KeyId)
		}
		return names
	})
}

func (l *life) listAliases(c *Client, id *string, size int32) (string, error) {
	pages := kms.NewListAliasesPaginator(c, &kms.ListAliasesInput{KeyId: id, Limit: &size})
	return inPages(l.t.Context(), size, pages, func(out *kms.ListAliasesOutput) (names []string) {
		for _, a := range out.Aliases {
			names = append(names, *a.AliasName)
		}
		return names
	})
}

func (l *life) listTags(c *Client, id *string, size int32) (string, error) {
	pages := kms.NewListResourceTagsPaginator(c, &kms.ListResourceTagsInput{KeyId: id, Limit: &size})
	return inPages(l.t.Context(), size, pages, func(out *kms.ListResourceTagsOutput) (names []string) {
		for _, tag := range out.Tags {
			names = append(names, *tag.TagKey+"="+*tag.TagValue)
		}
		return names
	})
}

// generate makes a MAC that must be the one that the key has always made, and verifies it.
func (l *life) generate(c *Client, k *modelKey, id *string) (string, error) {
	out, err := c.GenerateMac(l.t.Context(), &kms.GenerateMacInput{KeyId: id, MacAlgorithm: "HMAC_SHA_256", Message: []byte("m")})
	if err != nil {
		return "", err
	}
	mac := base64.StdEncoding.EncodeToString(out.Mac)
	if k.mac == "" {
		k.mac = mac
	}
	if *out.KeyId != k.arn || mac != k.mac {
		return "a MAC of another key", nil
	}
	return answerOK, verify(l.t.Context(), c, id, []byte("m"), out.Mac)
}

// others are steps that are of no key: time goes by, and a key is made where there are few.
func (l *life) others(c *Client, days int, text string) []step {
	steps := []step{{"time", func() (string, error) {
		l.clk.Advance(time.Duration(days) * day)
		return answerOK, c.bridge.core.Keys.DestroyDue(l.t.Context())
	}, func() string { l.pass(days); return answerOK }}}
	if len(l.live()) < 3 {
		steps = append(steps, step{"CreateKey", func() (string, error) { return answerOK, l.create(c, text) }, func() string { return answerOK }})
	}
	return steps
}

func (l *life) create(c *Client, text string) error {
	out, err := c.CreateKey(l.t.Context(), &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC",
		Description: &text, Tags: []types.Tag{{TagKey: &text, TagValue: &text}}})
	if err != nil {
		return err
	}
	l.keys = append(l.keys, &modelKey{id: *out.KeyMetadata.KeyId, arn: *out.KeyMetadata.Arn, state: types.KeyStateEnabled,
		description: text, tags: map[string]string{text: text}})
	return nil
}

// FuzzLife: whatever the sequence of operations, two clients of one store, in turn, answer as the model says. Each step
// takes four bytes: which, by whom, on what.
func FuzzLife(f *testing.F) {
	for seed := range uint64(10) {
		random := rand.NewChaCha8([32]byte{byte(seed)})
		sequence := make([]byte, 4*300)
		_, _ = random.Read(sequence) // never fails
		f.Add(sequence)
	}
	f.Fuzz(func(t *testing.T, sequence []byte) {
		if len(sequence) > 4*1000 {
			t.Skip("too long")
		}
		cfg := newConfig(t)
		cfg.Quotas.AliasesPerKey = aliasLimit
		l := &life{t: t, clk: newClock()}
		cfg.Now = l.clk.Now
		clients := []*Client{openClient(t, cfg), openClient(t, cfg)}
		l.clk.Advance(time.Hour) // long enough for the two to destroy keys
		l.model = model{now: l.clk.Now(), aliases: map[string]*modelKey{}, policy: defaultPolicyOf(clients[0].caller)}
		require.NoError(t, l.create(clients[0], "first"))
		for i := 0; i+4 <= len(sequence); i += 4 {
			which, who, key, name := sequence[i], sequence[i+1], sequence[i+2], sequence[i+3]
			c, k := clients[who%2], l.keys[int(key)%len(l.keys)]
			text := fmt.Sprint(name % 4)
			alias := "alias/" + fmt.Sprint(name%5)
			steps := append(l.changes(c, k, alias, text), l.reads(c, k, alias, int32(who%3+1))...)
			steps = append(steps, l.others(c, int(key%3), text)...)
			s := steps[int(which)%len(steps)]
			// What the other client changed may be seen a second later where a cached record is enough.
			require.NoError(t, c.bridge.core.Cache.Confirm(t.Context()))
			got := answerText(s.real())
			require.Equal(t, s.want(), got, "step %d: %s", i/4, s.name)
		}
	})
}
