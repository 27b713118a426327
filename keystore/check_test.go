package keystore_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func TestCheckChanges(t *testing.T) {
	good := sample().Put(0)
	alter := func(f func(*keystore.Change)) []keystore.Change {
		c := sample().Put(0)
		f(&c)
		return []keystore.Change{c}
	}
	many := func(n int) (changes []keystore.Change) {
		for i := range n {
			changes = append(changes, keystore.Change{Ref: keystore.KeyRef("r", "a", string(rune('A'+i)))})
		}
		return changes
	}
	for name, test := range map[string]struct {
		changes []keystore.Change
		want    string // empty: allowed
	}{
		"put":                  {[]keystore.Change{good}, ""},
		"check":                {[]keystore.Change{{Op: keystore.Check, Ref: good.Ref}}, ""},
		"delete":               {[]keystore.Change{{Op: keystore.Delete, Ref: good.Ref, Expect: 1}}, ""},
		"as many as can be":    {many(keystore.MaxChanges), ""},
		"too many":             {many(keystore.MaxChanges + 1), "65 changes"},
		"none":                 {nil, "0 changes"},
		"twice":                {[]keystore.Change{good, good}, "two changes of key"},
		"no id":                {alter(func(c *keystore.Change) { c.Ref.ID = "" }), "without kind or id"},
		"no kind":              {alter(func(c *keystore.Change) { c.Ref.Kind = "" }), "without kind or id"},
		"unknown operation":    {alter(func(c *keystore.Change) { c.Op = 3 }), "unknown operation 3"},
		"delete with a value":  {alter(func(c *keystore.Change) { c.Op = keystore.Delete }), "only a put"},
		"longest value":        {alter(func(c *keystore.Change) { c.Value = make([]byte, keystore.MaxValue) }), ""},
		"too long a value":     {alter(func(c *keystore.Change) { c.Value = make([]byte, keystore.MaxValue+1) }), "value of 262145"},
		"too long a seal":      {alter(func(c *keystore.Change) { c.Seal = make([]byte, keystore.MaxValue+1) }), "seal of 262145"},
		"entry without value":  {alter(func(c *keystore.Change) { c.Index[0].Value = "" }), "without name or value"},
		"entry without a name": {alter(func(c *keystore.Change) { c.Index[0].Index = "" }), "without name or value"},
		"two entries":          {alter(func(c *keystore.Change) { c.Index = append(c.Index, c.Index[0]) }), `two entries of index "cka-id"`},
	} {
		err := keystore.CheckChanges(test.changes)
		if test.want == "" {
			assert.NoError(t, err, name)
			continue
		}
		assert.ErrorContains(t, err, test.want, name)
	}
}

func TestCheckPage(t *testing.T) {
	for limit, allowed := range map[int]bool{-1: false, 0: false, 1: true, keystore.MaxPage: true, keystore.MaxPage + 1: false} {
		assert.Equal(t, allowed, keystore.CheckPage(limit) == nil, "limit %d", limit)
	}
}

func TestCheckRecord(t *testing.T) {
	k := sample()
	k.State, k.Instance = keystore.Deleting, "i"
	c := k.Put(0)
	require.Len(t, c.Index, 2)
	require.NoError(t, keystore.CheckRecord(record(c), c.Index))
	require.NoError(t, keystore.CheckRecord(record(c), []keystore.Entry{c.Index[1], c.Index[0]}), "in any order")
	require.ErrorContains(t, keystore.CheckRecord(record(c), c.Index[:1]), "do not fit")
	require.ErrorContains(t, keystore.CheckRecord(record(sample().Put(0)), c.Index), "do not fit")

	region := record(keystore.Region{Name: "us-west-2"}.Put(0))
	require.NoError(t, keystore.CheckRecord(region, nil))
	require.ErrorContains(t, keystore.CheckRecord(region, c.Index), "do not fit")
	region.Ref.ID = "us-west-1"
	require.ErrorContains(t, keystore.CheckRecord(region, nil), "reference does not fit")
	region.Value = nil
	require.Error(t, keystore.CheckRecord(region, nil))
	region.Ref.Kind = "none"
	require.ErrorContains(t, keystore.CheckRecord(region, nil), "unknown kind")
}
