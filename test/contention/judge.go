package contention

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
)

// tagQuota is the default of the service.
const tagQuota = 50

// contents are the records of one account and region.
type contents struct {
	keys    map[string]keystore.Key   // by id
	aliases map[string]keystore.Alias // by name
	counted int
}

// Judge reads a store that nobody changes any more. It returns all that is wrong with it: records that contradict each
// other, keys between two steps, and claims of the users that are not there. keys are those that were fought over.
func Judge(ctx context.Context, store keystore.Store, region, account string, keys []string, claims ...Claim) error {
	c, err := read(ctx, store, region, account)
	if err != nil {
		return err
	}
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.counted != len(c.keys) {
		wrong("the account's counter says %d keys, there are %d", c.counted, len(c.keys))
	}
	names := map[string][]string{} // key id -> aliases
	for name, alias := range c.aliases {
		names[alias.Target] = append(names[alias.Target], name)
		if _, ok := c.keys[alias.Target]; !ok {
			wrong("%s names the key %s, which is gone", name, alias.Target)
		}
	}
	for id, key := range c.keys {
		if key.State.Unfinished() {
			wrong("the key %s is in the state %s", id, key.State)
		}
		if (key.State == keystore.PendingDeletion) == key.DeletionDate.IsZero() {
			wrong("the key %s has the state %s and the deletion date %v", id, key.State, key.DeletionDate)
		}
		if len(key.Tags) > tagQuota {
			wrong("the key %s has %d tags", id, len(key.Tags))
		}
		found, err := indexed(ctx, store, region, account, id)
		if err != nil {
			return err
		}
		slices.Sort(names[id])
		if key.Aliases != len(names[id]) || !slices.Equal(found, names[id]) {
			wrong("the key %s counts %d aliases, %v name it, the index has %v", id, key.Aliases, names[id], found)
		}
	}
	return errors.Join(append(problems, c.contradictions(keys, claims)...)...)
}

// indexed returns the names of a key's aliases as the index has them.
func indexed(ctx context.Context, store keystore.Store, region, account, id string) (names []string, err error) {
	recs, err := store.Lookup(ctx, keystore.IndexAliasTarget, keystore.TargetValue(region, account, id), keystore.Ref{}, keystore.MaxPage)
	for _, rec := range recs {
		names = append(names, rec.Ref.ID)
	}
	return names, err
}

func read(ctx context.Context, store keystore.Store, region, account string) (c contents, err error) {
	c = contents{keys: map[string]keystore.Key{}, aliases: map[string]keystore.Alias{}}
	keys, err := store.List(ctx, keystore.KindKey, region, account, "", keystore.MaxPage)
	if err != nil {
		return c, err
	}
	for _, rec := range keys {
		rec.Seal = nil
		if c.keys[rec.Ref.ID], err = keystore.DecodeKey(rec); err != nil {
			return c, err
		}
	}
	aliases, err := store.List(ctx, keystore.KindAlias, region, account, "", keystore.MaxPage)
	if err != nil {
		return c, err
	}
	for _, rec := range aliases {
		rec.Seal = nil
		if c.aliases[rec.Ref.ID], err = keystore.DecodeAlias(rec); err != nil {
			return c, err
		}
	}
	rec, err := store.Get(ctx, keystore.CounterRef(region, account, keystore.CounterKeys))
	if err != nil {
		return c, err
	}
	rec.Seal = nil
	counter, err := keystore.DecodeCounter(rec)
	c.counted = counter.N
	return c, err
}

// contradictions compares what the users were told with what stands in the store. What a user did to a key that was
// destroyed in the end has gone with it.
func (c contents) contradictions(keys []string, claims []Claim) (problems []error) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for _, claim := range claims {
		want, got := map[string]string{}, map[string]string{}
		for name, target := range claim.Aliases {
			if _, ok := c.keys[target]; ok {
				want[name] = target
			}
		}
		for name, alias := range c.aliases {
			if strings.HasPrefix(name, ownAlias(claim.Place)) {
				got[name] = alias.Target
			}
		}
		if !maps.Equal(want, got) {
			wrong("user %d was told of the aliases %v, there are %v", claim.Place, want, got)
		}
		for _, id := range keys {
			key, ok := c.keys[id]
			if !ok {
				continue
			}
			tags := map[string]string{}
			for _, tag := range key.Tags {
				if strings.HasPrefix(tag.Key, ownTag(claim.Place)) {
					tags[tag.Key] = tag.Value
				}
			}
			if !maps.Equal(claim.Tags[id], tags) {
				wrong("user %d was told of the tags %v of the key %s, there are %v", claim.Place, claim.Tags[id], id, tags)
			}
			if text, ok := claim.Descriptions[id]; ok && text != key.Description {
				wrong("user %d was told of the description %q of the key %s, it is %q", claim.Place, text, id, key.Description)
			}
		}
	}
	return problems
}
