package pkcs11kms

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// pagedList is a list that is read in pages of seven, and in which others make and remove entries.
type pagedList struct {
	name string
	want []string // entries that stay
	page func(t *testing.T, c *Client, marker *string) (names []string, next *string, err error)
	add  func(t *testing.T, c *Client, name string) // name is in the order of the steady ones
	drop func(t *testing.T, c *Client, name string)
}

const pageLimit = 7

// pagedLists are all lists that have several pages, with thirty entries each: 20, 22, ... of four digits.
func pagedLists(t *testing.T, c *Client) []pagedList {
	const keyFormat = "%s-0000-4000-8000-000000000000"
	var keyIDs, aliases, tags []string
	key, other := mustCreate(t, c, types.KeySpecHmac256).KeyId, mustCreate(t, c, types.KeySpecHmac256).KeyId
	for i := range 30 {
		place := fmt.Sprintf("%08d", 20+2*i)
		aliases, tags = append(aliases, "alias/"+place), append(tags, place)
		createAlias(t, c, "alias/"+place, key)
		tag(t, c, key, place, "v")
	}
	page, err := c.ListKeys(t.Context(), nil)
	require.NoError(t, err)
	for _, k := range page.Keys {
		keyIDs = append(keyIDs, *k.KeyId)
	}
	for i := range 30 {
		keyIDs = append(keyIDs, putKey(t, c, fmt.Sprintf(keyFormat, fmt.Sprintf("%08d", 20+2*i))))
	}
	slices.Sort(keyIDs)
	listAliases := func(of *string) func(t *testing.T, c *Client, marker *string) ([]string, *string, error) {
		return func(t *testing.T, c *Client, marker *string) (names []string, next *string, err error) {
			out, err := c.ListAliases(t.Context(), &kms.ListAliasesInput{KeyId: of, Limit: aws.Int32(pageLimit), Marker: marker})
			if err != nil {
				return nil, nil, err
			}
			for _, a := range out.Aliases {
				names = append(names, *a.AliasName)
			}
			return names, out.NextMarker, nil
		}
	}
	dropAlias := func(t *testing.T, c *Client, place string) {
		_, err := c.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: ptr("alias/" + place)})
		require.NoError(t, err)
	}
	return []pagedList{
		{"ListKeys", keyIDs, func(t *testing.T, c *Client, marker *string) (names []string, next *string, err error) {
			out, err := c.ListKeys(t.Context(), &kms.ListKeysInput{Limit: aws.Int32(pageLimit), Marker: marker})
			if err != nil {
				return nil, nil, err
			}
			for _, k := range out.Keys {
				names = append(names, *k.KeyId)
			}
			return names, out.NextMarker, nil
		}, func(t *testing.T, c *Client, place string) { putKey(t, c, fmt.Sprintf(keyFormat, place)) },
			func(t *testing.T, c *Client, place string) { dropKey(t, c, fmt.Sprintf(keyFormat, place)) }},
		{"ListAliases", aliases, listAliases(nil),
			func(t *testing.T, c *Client, place string) { createAlias(t, c, "alias/"+place, other) }, dropAlias},
		{"ListAliases of a key", aliases, listAliases(key), func(t *testing.T, c *Client, place string) {
			createAlias(t, c, "alias/"+place, key)
		}, func(t *testing.T, c *Client, place string) { // it goes to another key first
			_, err := c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: ptr("alias/" + place), TargetKeyId: other})
			require.NoError(t, err)
			dropAlias(t, c, place)
		}},
		{"ListResourceTags", tags, func(t *testing.T, c *Client, marker *string) (names []string, next *string, err error) {
			out, err := c.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: key, Limit: aws.Int32(pageLimit), Marker: marker})
			if err != nil {
				return nil, nil, err
			}
			for _, tag := range out.Tags {
				names = append(names, *tag.TagKey)
			}
			return names, out.NextMarker, nil
		}, func(t *testing.T, c *Client, place string) { tag(t, c, key, place, "v") }, func(t *testing.T, c *Client, place string) {
			_, err := c.UntagResource(t.Context(), &kms.UntagResourceInput{KeyId: key, TagKeys: []string{place}})
			require.NoError(t, err)
		}},
	}
}

// all reads a list to its end.
func (l pagedList) all(t *testing.T, c *Client, between func()) (found []string) {
	t.Helper()
	names, next, err := l.page(t, c, nil)
	for ; ; names, next, err = l.page(t, c, next) {
		require.NoError(t, err)
		found = append(found, names...)
		if next == nil {
			return found
		}
		between()
	}
}

// Entries come and go, by another client, before, at and behind the place of the walk. Those that are there throughout
// appear once, in order, and no other appears twice.
func TestListsWhileOthersChange(t *testing.T) {
	cfg := newConfig(t)
	c, other := openClient(t, cfg), openClient(t, cfg)
	for _, list := range pagedLists(t, c) {
		t.Run(list.name, func(t *testing.T) {
			here := 20
			var there []string // what was added and is to go in the next turn
			dropThem := func() {
				for _, name := range there {
					list.drop(t, other, name)
				}
				there = nil
			}
			found := list.all(t, c, func() {
				dropThem()
				here += 2 * pageLimit
				for _, place := range []int{here - 13, here - 3, here - 1, here + 1, here + 3} {
					there = append(there, fmt.Sprintf("%08d", place))
					list.add(t, other, there[len(there)-1])
				}
				require.NoError(t, c.bridge.core.Cache.Confirm(t.Context())) // a second later
			})
			dropThem()
			require.IsIncreasing(t, found)
			require.Subset(t, found, list.want)
			require.Greater(t, len(found), len(list.want), "the walk has met others")
		})
	}
}

// A marker is good for another process, and after a restart. One that was changed is refused.
func TestMarkersOfEveryList(t *testing.T) {
	cfg := newConfig(t)
	before := openClient(t, cfg)
	lists := pagedLists(t, before)
	markers := map[string]string{}
	for _, list := range lists {
		names, next, err := list.page(t, before, nil)
		require.NoError(t, err)
		require.Equal(t, list.want[:pageLimit], names)
		markers[list.name] = *next
	}
	require.NoError(t, before.Close())
	c := openClient(t, cfg)
	for _, list := range lists {
		found := list.want[:pageLimit:pageLimit]
		for next := ptr(markers[list.name]); next != nil; {
			var names []string
			var err error
			names, next, err = list.page(t, c, next)
			require.NoError(t, err, list.name)
			found = append(found, names...)
		}
		require.Equal(t, list.want, found)

		text := markers[list.name]
		damaged := []string{"x", text[1:], text[:len(text)-1], text + "A", strings.ToUpper(text), text + text}
		for i := range text {
			damaged = append(damaged, text[:i]+string("AB"[(text[i]&1)])+text[i+1:])
		}
		for name, marker := range markers {
			if name != list.name {
				damaged = append(damaged, marker)
			}
		}
		for _, marker := range damaged {
			if marker == text {
				continue // the other letter was there already
			}
			_, _, err := list.page(t, c, &marker)
			requireAPIError(t, err, "InvalidMarkerException", "The marker is not one that this operation returned.")
		}
	}
}
