package pkcs11kms

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"
)

// model is what the service promises about a few keys and names, in the simplest form.
type model struct {
	keys    []*modelKey
	aliases map[string]int // name -> place in keys
}

type modelKey struct {
	id          *string
	state       types.KeyState
	description string
	tags        map[string]string
}

const (
	modelOK       = ""
	modelPending  = "KMSInvalidStateException"
	modelNotFound = "NotFoundException"
)

// aliasQuota of the model is small, so that it is reached.
const aliasQuota = 2

func (m *model) aliasesOf(key int) (n int) {
	for _, target := range m.aliases {
		if target == key {
			n++
		}
	}
	return n
}

// usable is the answer of an operation that needs an enabled key.
func (k *modelKey) usable() string {
	switch k.state {
	case types.KeyStatePendingDeletion:
		return modelPending
	case types.KeyStateDisabled:
		return "DisabledException"
	}
	return modelOK
}

func (k *modelKey) changeable() string {
	if k.state == types.KeyStatePendingDeletion {
		return modelPending
	}
	return modelOK
}

// change makes a change of the model if the answer allows it.
func change(answer string, effect func()) string {
	if answer == modelOK {
		effect()
	}
	return answer
}

// step is one operation: what the service does, and what the model says that it answers.
type step struct {
	name string
	call func() error
	want func() string
}

// steps are all operations on one key and one name, with one text.
func (m *model) steps(t *testing.T, c *Client, key int, name, text string) []step {
	ctx, k := t.Context(), m.keys[key]
	target, named := m.aliases[name]
	setState := func(state types.KeyState) func() string {
		return func() string { return change(k.changeable(), func() { k.state = state }) }
	}
	return []step{
		{"CreateAlias", func() error {
			_, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &name, TargetKeyId: k.id})
			return err
		}, func() string {
			switch {
			case k.changeable() != modelOK:
				return k.changeable()
			case named:
				return "AlreadyExistsException"
			case m.aliasesOf(key) == aliasQuota:
				return "LimitExceededException"
			}
			return change(modelOK, func() { m.aliases[name] = key })
		}},
		{"UpdateAlias", func() error {
			_, err := c.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: &name, TargetKeyId: k.id})
			return err
		}, func() string {
			switch {
			case k.changeable() != modelOK:
				return k.changeable()
			case !named:
				return modelNotFound
			case target != key && m.aliasesOf(key) == aliasQuota:
				return "LimitExceededException"
			}
			return change(modelOK, func() { m.aliases[name] = key })
		}},
		{"DeleteAlias", func() error {
			_, err := c.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: &name})
			return err
		}, func() string {
			if !named {
				return modelNotFound
			}
			return change(modelOK, func() { delete(m.aliases, name) })
		}},
		{"TagResource", func() error {
			_, err := c.TagResource(ctx, &kms.TagResourceInput{KeyId: k.id, Tags: []types.Tag{{TagKey: &text, TagValue: &name}}})
			return err
		}, func() string { return change(k.changeable(), func() { k.tags[text] = name }) }},
		{"UntagResource", func() error {
			_, err := c.UntagResource(ctx, &kms.UntagResourceInput{KeyId: k.id, TagKeys: []string{text}})
			return err
		}, func() string { return change(k.changeable(), func() { delete(k.tags, text) }) }},
		{"UpdateKeyDescription", func() error {
			_, err := c.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: k.id, Description: &text})
			return err
		}, func() string { return change(k.changeable(), func() { k.description = text }) }},
		{"EnableKey", func() error { return toggle(ctx, c, k.id, true) }, setState(types.KeyStateEnabled)},
		{"DisableKey", func() error { return toggle(ctx, c, k.id, false) }, setState(types.KeyStateDisabled)},
		{"ScheduleKeyDeletion", func() error {
			_, err := c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: k.id})
			return err
		}, setState(types.KeyStatePendingDeletion)},
		{"CancelKeyDeletion", func() error {
			_, err := c.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: k.id})
			return err
		}, func() string {
			if k.state != types.KeyStatePendingDeletion {
				return modelPending
			}
			return change(modelOK, func() { k.state = types.KeyStateDisabled })
		}},
		{"GenerateMac by key", func() error { _, err := generate(ctx, c, k.id, []byte("m")); return err }, k.usable},
		{"GenerateMac by alias", func() error { _, err := generate(ctx, c, &name, []byte("m")); return err }, func() string {
			if !named {
				return modelNotFound
			}
			return m.keys[target].usable()
		}},
	}
}

// agrees compares everything that can be read.
func (m *model) agrees(t *testing.T, c *Client) {
	for i, k := range m.keys {
		got := describe(t, c, k.id)
		require.Equal(t, k.state, got.KeyState)
		require.Equal(t, k.state == types.KeyStateEnabled, got.Enabled)
		require.Equal(t, k.description, *got.Description)
		tags := []string{}
		for _, key := range slices.Sorted(maps.Keys(k.tags)) {
			tags = append(tags, key+"="+k.tags[key])
		}
		require.Equal(t, tags, tagsOf(t, c, k.id))
		names := []string{}
		for _, name := range slices.Sorted(maps.Keys(m.aliases)) {
			if m.aliases[name] == i {
				names = append(names, name)
			}
		}
		require.Equal(t, names, aliasesOf(t, c, k.id))
	}
}

// Random sequences of operations, by two clients of one store in turn, are answered as the model says.
func TestLifeAgainstModel(t *testing.T) {
	cfg := newConfig(t)
	cfg.Quotas.AliasesPerKey = aliasQuota
	clients := []*Client{openClient(t, cfg), openClient(t, cfg)}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		m := &model{aliases: map[string]int{}}
		for range 3 {
			m.keys = append(m.keys, &modelKey{id: mustCreate(t, clients[0], types.KeySpecHmac256).KeyId, state: types.KeyStateEnabled, tags: map[string]string{}})
		}
		for i := range 150 {
			c := clients[r.IntN(2)]
			steps := m.steps(t, c, r.IntN(len(m.keys)), fmt.Sprintf("alias/run-%d/%d", seed, r.IntN(5)), fmt.Sprint(r.IntN(4)))
			s := steps[r.IntN(len(steps))]
			// What the other client changed may be seen a second later where a cached record is enough.
			require.NoError(t, c.bridge.cache.confirm(t.Context()))
			got := codeOf(s.call())
			require.Equal(t, s.want(), got, "seed %d, step %d: %s", seed, i, s.name)
		}
		for _, c := range clients {
			require.NoError(t, c.bridge.cache.confirm(t.Context()))
			m.agrees(t, c)
		}
	}
}

func codeOf(err error) string {
	var api smithy.APIError
	if errorAs(err, &api) {
		return api.ErrorCode()
	}
	if err != nil {
		return err.Error()
	}
	return modelOK
}
