package pkcs11kms

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// model is what the service promises about a few keys and names, in the simplest form. Answers are texts: what an operation
// returns, or code and message of its refusal.
type model struct {
	now     time.Time
	keys    []*modelKey
	aliases map[string]*modelKey // by name
	policy  string
}

type modelKey struct {
	id, arn     string
	gone        bool // destroyed
	state       types.KeyState
	due         time.Time // in PendingDeletion
	description string
	tags        map[string]string
	mac         string // of the one message, once it is known
}

const (
	answerOK    = "ok"
	aliasLimit  = 2 // so small that it is reached
	modelWindow = 7 // days of every scheduled deletion
)

// live are the keys that are not destroyed, in the order of ListKeys.
func (m *model) live() (live []*modelKey) {
	for _, k := range m.keys {
		if !k.gone {
			live = append(live, k)
		}
	}
	slices.SortFunc(live, func(a, b *modelKey) int { return strings.Compare(a.id, b.id) })
	return live
}

// namesOf are the aliases of a key, or of all when it is nil, in the order of ListAliases.
func (m *model) namesOf(k *modelKey) []string {
	names := []string{}
	for _, name := range slices.Sorted(maps.Keys(m.aliases)) {
		if k == nil || m.aliases[name] == k {
			names = append(names, name)
		}
	}
	return names
}

// there is the answer of operations that every key allows.
func (k *modelKey) there() string {
	if k.gone {
		return "NotFoundException: Key '" + k.arn + "' does not exist"
	}
	return answerOK
}

// changeable is the answer of operations that a key allows unless it is to be deleted.
func (k *modelKey) changeable() string {
	if k.there() == answerOK && k.state == types.KeyStatePendingDeletion {
		return "KMSInvalidStateException: " + k.arn + " is pending deletion."
	}
	return k.there()
}

// usable is the answer of operations that need an enabled key.
func (k *modelKey) usable() string {
	if k.changeable() == answerOK && k.state == types.KeyStateDisabled {
		return "DisabledException: " + k.arn + " is disabled."
	}
	return k.changeable()
}

// change makes a change of the model if the answer allows it.
func change(answer string, effect func()) string {
	if answer == answerOK {
		effect()
	}
	return answer
}

func noAlias(name string) string {
	return "NotFoundException: Alias " + modelAliasARN(name) + " is not found."
}

func modelAliasARN(name string) string {
	return "arn:aws:kms:" + testRegion + ":" + testAccount + ":" + name
}

func (m *model) createAlias(name string, k *modelKey) string {
	switch answer := k.changeable(); {
	case answer != answerOK:
		return answer
	case m.aliases[name] != nil:
		return "AlreadyExistsException: An alias with the name " + modelAliasARN(name) + " already exists"
	}
	return m.point(name, k)
}

func (m *model) updateAlias(name string, k *modelKey) string {
	switch answer := k.changeable(); {
	case answer != answerOK:
		return answer
	case m.aliases[name] == nil:
		return noAlias(name)
	}
	return m.point(name, k)
}

// point gives an alias to a key, if that has not too many already.
func (m *model) point(name string, k *modelKey) string {
	if m.aliases[name] != k && len(m.namesOf(k)) == aliasLimit {
		return fmt.Sprintf("LimitExceededException: The key has reached its limit of %d aliases.", aliasLimit)
	}
	m.aliases[name] = k
	return answerOK
}

func (m *model) deleteAlias(name string) string {
	if m.aliases[name] == nil {
		return noAlias(name)
	}
	delete(m.aliases, name)
	return answerOK
}

func (m *model) schedule(k *modelKey) string {
	return change(k.changeable(), func() {
		k.state, k.due = types.KeyStatePendingDeletion, m.now.Add(modelWindow*day)
	})
}

func (k *modelKey) cancel() string {
	if k.there() == answerOK && k.state != types.KeyStatePendingDeletion {
		return "KMSInvalidStateException: " + k.arn + " is not pending deletion."
	}
	return change(k.there(), func() { k.state, k.due = types.KeyStateDisabled, time.Time{} })
}

// pass lets time go by, and destroys what is due then.
func (m *model) pass(days int) {
	m.now = m.now.Add(time.Duration(days) * day)
	for _, k := range m.live() {
		if k.state == types.KeyStatePendingDeletion && !k.due.After(m.now) {
			k.gone = true
			maps.DeleteFunc(m.aliases, func(_ string, target *modelKey) bool { return target == k })
		}
	}
}

// tells is the answer of operations that every key allows and that return something.
func (k *modelKey) tells(what func() string) func() string {
	return func() string {
		if answer := k.there(); answer != answerOK {
			return answer
		}
		return what()
	}
}

// metadata is what DescribeKey tells of a key.
func (k *modelKey) metadata() string {
	return k.tells(func() string {
		return metadataText(k.id, k.arn, k.state, k.state == types.KeyStateEnabled, k.due, k.description)
	})()
}

func metadataText(id, arn string, state types.KeyState, enabled bool, due time.Time, description string) string {
	return fmt.Sprint(id, " ", arn, " ", state, " ", enabled, " ", due.Unix(), " ", description)
}

// tagTexts are what ListResourceTags tells.
func (k *modelKey) tagTexts() []string {
	tags := []string{}
	for _, name := range slices.Sorted(maps.Keys(k.tags)) {
		tags = append(tags, name+"="+k.tags[name])
	}
	return tags
}
