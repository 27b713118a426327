package iam

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// A group has a name, inline policies and attached ones as users have, and so the operations that those have: see PrincipalName. Here
// is what groups alone have: the users in them.

const maxGroupsPerUser = 10

func groupName(name string) PrincipalName { return PrincipalName{keystore.PrincipalGroup, name} }
func userName(name string) PrincipalName  { return PrincipalName{keystore.PrincipalUser, name} }

// GetGroup returns a group and a page of the users in it, ordered by their ids. (GetGroup)
func (c *Client) GetGroup(ctx context.Context, name string, page Page) (group Principal, users []Principal, next string, err error) {
	req := request{input: groupName(name).input(), form: cmp.Or(groupName(name).check(), page.check()), find: c.about(groupName(name))}
	err = c.perform(ctx, ops.GetGroup, req, func(ctx context.Context, _ *call, s subject) error {
		users = []Principal{}
		if group, err = c.dir.describe(ctx, s.record); err != nil {
			return err
		}
		next, err = c.eachMember(ctx, s.record.ID, page, func(record keystore.Principal) error {
			shown, err := c.dir.describe(ctx, record)
			shown.Tags = nil
			users = append(users, shown)
			return err
		})
		return err
	})
	if err != nil {
		return Principal{}, nil, "", err
	}
	return group, users, next, nil
}

// AddUserToGroup puts a user in a group; who is in it stays so. LimitExceeded beyond ten groups. (AddUserToGroup)
func (c *Client) AddUserToGroup(ctx context.Context, group, user string) error {
	return c.changeMembership(ctx, ops.AddUserToGroup, group, user, func(record *keystore.Principal, g keystore.Principal) error {
		at, has := keystore.FindAttached(record.Groups, g.ID)
		switch {
		case has:
			return nil
		case len(record.Groups) >= maxGroupsPerUser:
			return quotaExceeded("GroupsPerUser", maxGroupsPerUser)
		}
		record.Groups = slices.Insert(slices.Clone(record.Groups), at, keystore.Attached{ID: g.ID, Revision: g.Revision})
		return nil
	})
}

// RemoveUserFromGroup takes a user out of a group; who is not in it stays so. (RemoveUserFromGroup)
func (c *Client) RemoveUserFromGroup(ctx context.Context, group, user string) error {
	return c.changeMembership(ctx, ops.RemoveUserFromGroup, group, user, func(record *keystore.Principal, g keystore.Principal) error {
		if at, has := keystore.FindAttached(record.Groups, g.ID); has {
			record.Groups = slices.Delete(slices.Clone(record.Groups), at, at+1)
		}
		return nil
	})
}

// changeMembership commits what edit makes of the groups of a user, in one batch with what the group knows of it.
func (c *Client) changeMembership(ctx context.Context, op *ops.Operation, group, user string,
	edit func(*keystore.Principal, keystore.Principal) error) error {
	in := groupName(group).input()
	in["userName"] = user
	req := request{input: in, form: cmp.Or(groupName(group).check(), userName(user).check()), find: c.about(groupName(group))}
	return c.perform(ctx, op, req, func(ctx context.Context, x *call, s subject) error {
		record, version, err := c.dir.find(ctx, c.caller.account, userName(user))
		if errors.Is(err, keystore.ErrNotFound) {
			return noSuchPrincipal(userName(user))
		}
		if err != nil {
			return err
		}
		had := len(record.Groups)
		if err := edit(&record, s.record); err != nil || len(record.Groups) == had {
			return err
		}
		changes, err := x.joined(ctx, s.record.ID, record.ID, len(record.Groups) > had)
		if err != nil {
			return err
		}
		changes = append(changes, keystore.Change{Op: keystore.Check, Ref: s.record.Ref(), Expect: s.version})
		return x.commitPrincipal(ctx, record, version, changes...)
	})
}

// ListGroups returns the groups that a user is in, ordered by name. (ListGroupsForUser)
func (c *Client) ListGroups(ctx context.Context, user string) (list []Principal, err error) {
	req := request{input: userName(user).input(), form: userName(user).check(), find: c.about(userName(user))}
	err = c.perform(ctx, ops.ListGroupsForUser, req, func(ctx context.Context, _ *call, s subject) error {
		list = []Principal{}
		for _, in := range s.record.Groups {
			rec, err := c.dir.cfg.Store.Get(ctx, keystore.PrincipalRef(c.caller.account, in.ID))
			if errors.Is(err, keystore.ErrNotFound) {
				continue // as in ListAttachedPolicies
			}
			var record keystore.Principal
			if err == nil {
				record, err = keystore.DecodePrincipal(rec)
			}
			var shown Principal
			if err == nil {
				shown, err = c.dir.describe(ctx, record)
			}
			if err != nil {
				return err
			}
			list = append(list, shown)
		}
		slices.SortFunc(list, func(a, b Principal) int { return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) })
		return nil
	})
	return answered(list, err)
}
