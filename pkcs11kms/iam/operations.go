package iam

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"reflect"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

var (
	createPrincipal = byType{ops.CreateUser, ops.CreateRole, ops.CreateGroup}
	getPrincipal    = byType{ops.GetUser, ops.GetRole, ops.GetGroup}
	listPrincipals  = byType{ops.ListUsers, ops.ListRoles, ops.ListGroups}
	deletePrincipal = byType{ops.DeleteUser, ops.DeleteRole, ops.DeleteGroup}
)

// CreatePrincipal makes a user, role or group with an id of its own. EntityAlreadyExists when the name is taken, in whatever case;
// LimitExceeded beyond 5,000 users, 1,000 roles or 300 groups, which holds for all processes at once. (CreateUser, CreateRole, CreateGroup)
func (c *Client) CreatePrincipal(ctx context.Context, name PrincipalName, options PrincipalOptions) (made Principal, err error) {
	options.Path = cmp.Or(options.Path, "/")
	in := name.input()
	in["path"], in["tags"] = options.Path, options.Tags
	in["description"], in["assumeRolePolicyDocument"] = options.Description, options.TrustPolicy
	in["maxSessionDuration"] = options.MaxSessionDuration
	err = c.perform(ctx, createPrincipal.of(name.Type), request{
		input: in, form: cmp.Or(name.check(), options.check(name.Type)), given: RequestTags(options.Tags),
		find: func(context.Context) (s subject, missing, err error) {
			return subject{arn: c.dir.arn(c.caller.account, string(name.Type)+options.Path+name.Name)}, nil, nil
		},
	}, func(ctx context.Context, x *call, _ subject) error {
		made, err = x.createPrincipal(ctx, name, options)
		x.output = map[string]any{string(name.Type): made.shown()}
		return err
	})
	return answered(made, err)
}

func (c *call) createPrincipal(ctx context.Context, name PrincipalName, options PrincipalOptions) (Principal, error) {
	tags, err := withTags(name.Type, nil, options.Tags)
	if err != nil {
		return Principal{}, err
	}
	record := keystore.Principal{
		Account: c.caller.account, ID: keystore.PrincipalID(name.Type, randomBase32(keystore.PrincipalIDLength)),
		Type: name.Type, Name: name.Name, Path: options.Path, Created: c.Now().UTC().Truncate(time.Second),
		Description: options.Description, MaxSessionDuration: storedSession(options.MaxSessionDuration), Tags: tags,
	}
	if record.TrustPolicy, err = c.dir.boundTrust(ctx, record.Account, options.TrustPolicy); err != nil {
		return Principal{}, err
	}
	if name.Type == keystore.PrincipalGroup {
		record.Revision = 1
	}
	counter, err := c.countPrincipal(ctx, record.Type, 1)
	if err != nil {
		return Principal{}, err
	}
	err = c.commitPrincipal(ctx, record, 0, counter)
	if errors.Is(err, keystore.ErrExists) {
		err = failure(entityAlreadyExists, "%s with name %s already exists.", kindOf(name.Type).entity, name.Name)
	}
	if err != nil {
		return Principal{}, err
	}
	return c.dir.describe(ctx, record)
}

// countPrincipal returns the change of the counter of users, roles or groups, or LimitExceeded.
func (c *call) countPrincipal(ctx context.Context, t keystore.PrincipalType, n int) (keystore.Change, error) {
	return c.count(ctx, t.Counter(), n, kindOf(t).quota, kindOf(t).limit)
}

// commitPrincipal writes a principal's or group's record, which must have the version, in one batch with more.
func (c *call) commitPrincipal(ctx context.Context, record keystore.Principal, version uint64, more ...keystore.Change) error {
	if record.Type == keystore.PrincipalGroup && version > 0 { // what it allows, others have
		counted, err := c.policiesChanged(ctx)
		if err != nil {
			return err
		}
		record.Revision++
		more = append(more, counted)
	}
	put := record.Put(version)
	if len(put.Value) > keystore.MaxValue { // policies with very many blanks, which their own limit does not count
		return failure(limitExceeded, "The %s with its policies exceeds the maximum size of %d bytes.", record.Type, keystore.MaxValue)
	}
	return c.commit(ctx, append(more, put)...)
}

// randomBase32 returns n characters of 5 random bits.
func randomBase32(n int) string {
	random := make([]byte, (n*5+7)/8)
	rand.Read(random) // never fails, see crypto/rand
	return base32.StdEncoding.EncodeToString(random)[:n]
}

func (d *Directory) describe(ctx context.Context, record keystore.Principal) (Principal, error) {
	trust, err := d.shownTrust(ctx, record)
	shown := Principal{
		PrincipalName: PrincipalName{record.Type, record.Name},
		PrincipalOptions: PrincipalOptions{Path: record.Path, Description: record.Description, TrustPolicy: trust,
			Tags: record.Tags},
		ID: record.ID, ARN: d.principalARN(record), Created: record.Created,
	}
	if record.Type == keystore.PrincipalRole {
		shown.MaxSessionDuration = int32(record.LongestSession() / time.Second)
	}
	return shown, err
}

// about returns what finds the user, role or group of that name, or the account's root, which the zero PrincipalName names.
func (c *Client) about(name PrincipalName) func(context.Context) (s subject, missing, err error) {
	return func(ctx context.Context) (s subject, missing, err error) {
		account := c.caller.account
		if name.root() {
			return c.root(), nil, nil
		}
		s.shown = string(name.Type) + " " + name.Name // and not its path, which only what is there has
		s.record, s.version, err = c.dir.find(ctx, account, name)
		if errors.Is(err, keystore.ErrNotFound) {
			return subject{arn: c.dir.arn(account, string(name.Type)+"/"+name.Name), shown: s.shown}, noSuchPrincipal(name), nil
		}
		s.arn = c.dir.principalARN(s.record)
		return s, nil, err
	}
}

// root is the account's root as a subject.
func (c *Client) root() subject {
	return subject{arn: c.dir.Root(c.caller.account).arn, record: keystore.Principal{Account: c.caller.account}, root: true}
}

// read makes a call that reads the record of a user or role.
func (c *Client) read(ctx context.Context, op byType, name PrincipalName, in input, form error, use func(keystore.Principal) error) error {
	req := request{input: in, form: cmp.Or(form, name.check(), op.has(name.Type)), find: c.about(name)}
	return c.perform(ctx, op.of(name.Type), req, func(_ context.Context, _ *call, s subject) error { return use(s.record) })
}

// change makes a call that commits what edit makes of the record of a user or role, unless that is nothing new.
func (c *Client) change(ctx context.Context, op byType, name PrincipalName, req request, edit func(*keystore.Principal) error) error {
	req.form, req.find = cmp.Or(req.form, name.check(), op.has(name.Type)), c.about(name)
	return c.perform(ctx, op.of(name.Type), req, func(ctx context.Context, x *call, s subject) error {
		record := s.record
		if err := edit(&record); err != nil || reflect.DeepEqual(record, s.record) {
			return err
		}
		return x.commitPrincipal(ctx, record, s.version)
	})
}

// GetPrincipal returns a user or role, or NoSuchEntity. The zero PrincipalName is the account's root, which has an id and an ARN and
// nothing else. (GetUser, GetRole)
func (c *Client) GetPrincipal(ctx context.Context, name PrincipalName) (found Principal, err error) {
	if name.root() {
		req := request{input: input{}, find: c.about(name)}
		err = c.perform(ctx, ops.GetUser, req, func(_ context.Context, _ *call, s subject) error {
			found = Principal{ID: c.caller.account, ARN: s.arn}
			return nil
		})
		return answered(found, err)
	}
	err = c.read(ctx, getPrincipal, name, name.input(), nil, func(record keystore.Principal) (err error) {
		found, err = c.dir.describe(ctx, record)
		return err
	})
	return answered(found, err)
}

// ListPrincipals returns the users, roles or groups whose path begins with pathPrefix, ordered by name. The empty prefix means all of them.
// (ListUsers, ListRoles, ListGroups)
func (c *Client) ListPrincipals(ctx context.Context, t keystore.PrincipalType, pathPrefix string) (list []Principal, err error) {
	list, _, err = c.PagePrincipals(ctx, t, pathPrefix, Page{})
	return list, err
}

// PagePrincipals is ListPrincipals by pages.
func (c *Client) PagePrincipals(ctx context.Context, t keystore.PrincipalType, pathPrefix string, page Page) (
	list []Principal, next string, err error) {
	req := request{input: input{"pathPrefix": pathPrefix}, form: cmp.Or(checkPathPrefix(pathPrefix), page.check())}
	err = c.perform(ctx, listPrincipals.of(t), req, func(ctx context.Context, _ *call, _ subject) error {
		list = []Principal{}
		prefix := keystore.PrincipalNameValue(c.caller.account, t, "")
		next, err = c.eachNamed(ctx, keystore.IndexPrincipalName, prefix, page, func(rec keystore.Record) error {
			record, err := keystore.DecodePrincipal(rec)
			if err != nil || !strings.HasPrefix(record.Path, pathPrefix) {
				return err
			}
			found, err := c.dir.describe(ctx, record)
			list = append(list, found)
			return err
		})
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return list, next, nil
}

func checkPathPrefix(prefix string) error {
	var v form.Violations
	v.Text("pathPrefix", prefix, 0, 512, nil)
	if err := invalid(v); err != nil {
		return err
	}
	if prefix != "" && !pathPrefixPattern.MatchString(prefix) {
		return failure(validationError, "The specified value for pathPrefix is invalid. "+
			"It must begin with / and contain only alphanumeric characters and/or / characters.")
	}
	return nil
}

// DeletePrincipal removes a user or role that has no access keys, no policies, inline or attached, and is in no group, or a group without
// users and policies (DeleteConflict). Whoever acts in its name is refused at once by this process, within a second by every other.
// (DeleteUser, DeleteRole, DeleteGroup)
func (c *Client) DeletePrincipal(ctx context.Context, name PrincipalName) error {
	req := request{input: name.input(), form: name.check(), find: c.about(name)}
	return c.perform(ctx, deletePrincipal.of(name.Type), req, func(ctx context.Context, x *call, s subject) error {
		attached, groups, err := x.standing(ctx, s.record)
		if err != nil {
			return err
		}
		switch {
		case s.record.AccessKeys > 0:
			return failure(deleteConflict, "Cannot delete entity, must delete access keys first.")
		case attached:
			return failure(deleteConflict, "Cannot delete entity, must detach all policies first.")
		case len(s.record.Policies) > 0:
			return failure(deleteConflict, "Cannot delete entity, must delete policies first.")
		case groups:
			return failure(deleteConflict, "%s", removeUsersFirst)
		}
		counter, err := x.countPrincipal(ctx, name.Type, -1)
		if err != nil {
			return err
		}
		changes := []keystore.Change{counter, {Op: keystore.Delete, Ref: s.record.Ref(), Expect: s.version}}
		if name.Type == keystore.PrincipalGroup {
			gone, err := x.withoutMembers(ctx, s.record.ID, removeUsersFirst)
			if err != nil {
				return err
			}
			changes = append(changes, gone)
		}
		return x.commit(ctx, changes...)
	})
}

const removeUsersFirst = "Cannot delete entity, must remove users from group first."

// standing tells whether a user, role or group has managed policies attached that there are, and is in groups that there are. What it
// has and is gone keeps it from everything but its end.
func (c *call) standing(ctx context.Context, record keystore.Principal) (attached, groups bool, err error) {
	there := func(ref keystore.Ref) bool {
		_, failure := c.dir.cfg.Store.Get(ctx, ref)
		err = errors.Join(err, records.IgnoreNotFound(failure))
		return failure == nil
	}
	for _, a := range record.Attached {
		attached = attached || there(keystore.ManagedPolicyRef(record.Account, a.ID))
	}
	for _, g := range record.Groups {
		groups = groups || there(keystore.PrincipalRef(record.Account, g.ID))
	}
	return attached, groups, err
}
