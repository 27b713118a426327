package iam

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// AttachedPolicy is a managed policy as lists of what somebody has attached show it.
type AttachedPolicy struct{ Name, ARN string }

var (
	attachPolicy         = byType{ops.AttachUserPolicy, ops.AttachRolePolicy, ops.AttachGroupPolicy}
	detachPolicy         = byType{ops.DetachUserPolicy, ops.DetachRolePolicy, ops.DetachGroupPolicy}
	listAttachedPolicies = byType{ops.ListAttachedUserPolicies, ops.ListAttachedRolePolicies, ops.ListAttachedGroupPolicies}
)

// membersOf reads how many have a managed policy attached or are in a group.
func (c *Client) membersOf(ctx context.Context, id string) (keystore.Counter, uint64, error) {
	return records.ReadCounter(ctx, c.dir.cfg.Store, "", c.caller.account, keystore.CounterMembers+id)
}

// joined are the changes by which a user, role or group has one more, or one less, of what is named by id.
func (c *call) joined(ctx context.Context, id, member string, joins bool) ([]keystore.Change, error) {
	counter, version, err := c.membersOf(ctx, id)
	if err != nil {
		return nil, err
	}
	m := keystore.Member{Account: c.caller.account, Of: id, ID: member}
	rec, err := c.dir.cfg.Store.Get(ctx, m.Ref())
	if err := records.IgnoreNotFound(err); err != nil {
		return nil, err
	}
	change := m.Put(rec.Version)
	switch {
	case joins && rec.Version == 0:
		counter.N++
	case !joins && rec.Version > 0:
		counter.N = max(0, counter.N-1)
		change = keystore.Change{Op: keystore.Delete, Ref: m.Ref(), Expect: rec.Version}
	case !joins:
		change = keystore.Change{Op: keystore.Check, Ref: m.Ref()}
	}
	return []keystore.Change{counter.Put(version), change}, nil
}

// withoutMembers is the change by which something goes that nobody has: nobody gets it meanwhile. DeleteConflict where somebody has it.
func (c *call) withoutMembers(ctx context.Context, id, conflict string) (keystore.Change, error) {
	counter, version, err := c.membersOf(ctx, id)
	switch {
	case err != nil:
		return keystore.Change{}, err
	case counter.N > 0:
		return keystore.Change{}, failure(deleteConflict, "%s", conflict)
	case version == 0:
		return keystore.Change{Op: keystore.Check, Ref: keystore.CounterRef("", c.caller.account, keystore.CounterMembers+id)}, nil
	}
	return keystore.Change{Op: keystore.Delete, Ref: counter.Put(0).Ref, Expect: version}, nil
}

// AttachPolicy attaches a managed policy to a user, role or group; one that is attached stays so. LimitExceeded beyond ten.
// (AttachUserPolicy, AttachRolePolicy, AttachGroupPolicy)
func (c *Client) AttachPolicy(ctx context.Context, name PrincipalName, arn string) error {
	return c.attach(ctx, attachPolicy, name, arn, func(ctx context.Context, x *call, s subject) error {
		found, version, err := c.findPolicy(ctx, arn)
		if errors.Is(err, keystore.ErrNotFound) {
			return notAttachable(arn)
		}
		if err != nil {
			return err
		}
		record := s.record
		at, has := keystore.FindAttached(record.Attached, found.ID)
		switch {
		case has:
			return nil
		case len(record.Attached) >= maxAttached:
			return quotaExceeded("PoliciesPer"+kindOf(name.Type).entity, maxAttached)
		}
		record.Attached = slices.Insert(slices.Clone(record.Attached), at, keystore.Attached{ID: found.ID, Revision: found.Revision})
		changes, err := x.joined(ctx, found.ID, record.ID, true)
		if err != nil {
			return err
		}
		changes = append(changes, keystore.Change{Op: keystore.Check, Ref: found.Ref(), Expect: version})
		return x.commitPrincipal(ctx, record, s.version, changes...)
	})
}

// DetachPolicy takes a managed policy from a user, role or group, or answers NoSuchEntity. (DetachUserPolicy, DetachRolePolicy,
// DetachGroupPolicy)
func (c *Client) DetachPolicy(ctx context.Context, name PrincipalName, arn string) error {
	return c.attach(ctx, detachPolicy, name, arn, func(ctx context.Context, x *call, s subject) error {
		found, _, err := c.findPolicy(ctx, arn)
		if errors.Is(err, keystore.ErrNotFound) {
			return noSuchManagedPolicy(arn)
		}
		if err != nil {
			return err
		}
		record := s.record
		at, has := keystore.FindAttached(record.Attached, found.ID)
		if !has {
			return noSuchManagedPolicy(arn)
		}
		record.Attached = slices.Delete(slices.Clone(record.Attached), at, at+1)
		changes, err := x.joined(ctx, found.ID, record.ID, false)
		if err != nil {
			return err
		}
		return x.commitPrincipal(ctx, record, s.version, changes...)
	})
}

func (c *Client) attach(ctx context.Context, op byType, name PrincipalName, arn string,
	run func(context.Context, *call, subject) error) error {
	in := name.input()
	in["policyArn"] = arn
	req := request{input: in, form: cmp.Or(name.check(), checkPolicyARN(arn)), find: c.about(name),
		given: map[string][]string{"iam:policyarn": {arn}}}
	return c.perform(ctx, op.of(name.Type), req, run)
}

// ListAttachedPolicies returns the managed policies that a user, role or group has attached whose path begins with pathPrefix, ordered by
// name. (ListAttachedUserPolicies, ListAttachedRolePolicies, ListAttachedGroupPolicies)
func (c *Client) ListAttachedPolicies(ctx context.Context, name PrincipalName, pathPrefix string) (list []AttachedPolicy, err error) {
	in := name.input()
	in["pathPrefix"] = pathPrefix
	req := request{input: in, form: cmp.Or(name.check(), PolicyFilter{PathPrefix: pathPrefix}.check()), find: c.about(name)}
	err = c.perform(ctx, listAttachedPolicies.of(name.Type), req, func(ctx context.Context, _ *call, s subject) error {
		list = []AttachedPolicy{}
		for _, attached := range s.record.Attached {
			rec, err := c.dir.cfg.Store.Get(ctx, keystore.ManagedPolicyRef(c.caller.account, attached.ID))
			if errors.Is(err, keystore.ErrNotFound) {
				continue // detached and deleted meanwhile; or doctor tells of it
			}
			var record keystore.ManagedPolicy
			if err == nil {
				record, err = keystore.DecodeManagedPolicy(rec)
			}
			if err != nil {
				return err
			}
			if strings.HasPrefix(record.Path, pathPrefix) {
				list = append(list, AttachedPolicy{record.Name, c.dir.policyARN(record)})
			}
		}
		slices.SortFunc(list, func(a, b AttachedPolicy) int {
			return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
		})
		return nil
	})
	return answered(list, err)
}

// Entity is who has a managed policy attached.
type Entity struct {
	PrincipalName
	ID string
}

// EntityFilter says which of those are listed who have a managed policy attached.
type EntityFilter struct {
	Type       keystore.PrincipalType // empty: every one
	PathPrefix string                 // of the user, role or group
	Usage      string                 // as in PolicyFilter
	Others     bool                   // nothing that there is here: managed policies of AWS
}

// ListEntitiesForPolicy returns a page of those who have a managed policy attached, ordered by their ids. (ListEntitiesForPolicy)
func (c *Client) ListEntitiesForPolicy(ctx context.Context, arn string, filter EntityFilter, page Page) (
	list []Entity, next string, err error) {
	in := input{"policyArn": arn, "entityFilter": string(filter.Type), "pathPrefix": filter.PathPrefix, "policyUsageFilter": filter.Usage}
	wrong := cmp.Or(checkPolicyARN(arn), checkPathPrefix(filter.PathPrefix), PolicyFilter{Usage: filter.Usage}.check(), page.check())
	req := request{input: in, form: wrong, find: c.aboutPolicy(arn, notAttachable)}
	err = c.perform(ctx, ops.ListEntitiesForPolicy, req, func(ctx context.Context, _ *call, s subject) error {
		list = []Entity{}
		if filter.Others || filter.Usage == "PermissionsBoundary" {
			return nil
		}
		next, err = c.eachMember(ctx, s.policy.ID, page, func(record keystore.Principal) error {
			if strings.HasPrefix(record.Path, filter.PathPrefix) && (filter.Type == "" || filter.Type == record.Type) {
				list = append(list, Entity{PrincipalName{record.Type, record.Name}, record.ID})
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return list, next, nil
}

// eachMember visits a page of those who have something, ordered by their ids.
func (c *Client) eachMember(ctx context.Context, of string, page Page, visit func(keystore.Principal) error) (next string, err error) {
	after := of + "/" + page.After
	return c.eachPage(ctx, page, func(limit int) ([]keystore.Record, error) {
		recs, err := c.dir.cfg.Store.List(ctx, keystore.KindMember, "", c.caller.account, after, limit)
		end := slices.IndexFunc(recs, func(rec keystore.Record) bool { return !strings.HasPrefix(rec.Ref.ID, of+"/") })
		if end >= 0 {
			recs = recs[:end]
		}
		return recs, err
	}, func(rec keystore.Record) (string, error) {
		after = rec.Ref.ID
		member, err := keystore.DecodeMember(rec)
		if err != nil {
			return "", err
		}
		found, err := c.dir.cfg.Store.Get(ctx, keystore.PrincipalRef(c.caller.account, member.ID))
		if errors.Is(err, keystore.ErrNotFound) {
			return member.ID, nil
		}
		var record keystore.Principal
		if err == nil {
			record, err = keystore.DecodePrincipal(found)
		}
		if err == nil {
			err = visit(record)
		}
		return member.ID, err
	})
}
