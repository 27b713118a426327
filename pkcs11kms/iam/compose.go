package iam

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// The policies of a user or role stand in several records: its own, those of the managed policies that it has attached, those of its
// groups, and those of the managed policies that these have. Its own record names the others, with the least revision that each must
// have: one that is missing or from before may have held a deny, so then nothing is decided. All together are put together once and
// kept with the cached record, for as long as the cache has dropped nothing.

// maxPolicyText bounds the policies that one decision looks at, in characters without blanks: what a caller may cost.
const maxPolicyText = 256 << 10

// composed is all policies of a user or role.
type composed struct {
	drops    uint64 // of the cache before they were read
	policies []policy.Named
}

// managed is a managed policy as decisions see it; it is never changed.
type managed struct {
	record   keystore.ManagedPolicy
	version  uint64
	arn      string
	document *policy.Document
	length   int
}

// partError says that what a principal's policies rest on cannot be used. It may have been taken from the principal just now.
type partError struct{ error }

func (e partError) Unwrap() error { return e.error }

func (d *Directory) decodeManaged(rec keystore.Record) (*managed, error) {
	record, err := keystore.DecodeManagedPolicy(rec)
	if err != nil {
		return nil, err
	}
	m := &managed{record: record, version: rec.Version, arn: d.policyARN(record)}
	text, _ := record.Version(record.Default)
	m.length = policyLength(text.Document)
	if m.document, err = policy.ParseIdentityPolicy(text.Document); err != nil {
		return nil, fmt.Errorf("version %d of %s: %w", text.Number, m.arn, err)
	}
	return m, nil
}

// managed returns a managed policy by its unique id, from the cache, as principal does.
func (d *Directory) managed(ctx context.Context, account, id string) (*managed, error) {
	return records.CachedOrFresh(ctx, d.cfg.Cache, keystore.ManagedPolicyRef(account, id), d.decodeManaged)
}

// allPolicies returns the policies of a user or role, which may have changed meanwhile: the principal that they are of is returned, too.
func (d *Directory) allPolicies(ctx context.Context, p *principal) (*principal, []policy.Named, error) {
	if len(p.record.Attached)+len(p.record.Groups) == 0 {
		return p, p.policies, nil
	}
	drops := d.cfg.Cache.Drops()
	if all := p.all.Load(); all != nil && all.drops == drops {
		return p, all.policies, nil
	}
	policies, err := d.compose(ctx, p)
	var part partError
	if errors.As(err, &part) { // it may have been detached, and then deleted, since the principal was read
		if err = d.cfg.Cache.Confirm(ctx); err != nil {
			return nil, nil, err
		}
		drops = d.cfg.Cache.Drops()
		if p, err = d.principal(ctx, p.record.Account, p.record.ID); err != nil {
			return nil, nil, err
		}
		policies, err = d.compose(ctx, p)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the policies of %s: %w", p.arn, err)
	}
	p.all.Store(&composed{drops, policies})
	return p, policies, nil
}

// compose reads and joins the policies of a user or role.
func (d *Directory) compose(ctx context.Context, p *principal) ([]policy.Named, error) {
	all, length := slices.Clip(p.policies), p.length
	add := func(of string, list []keystore.Attached) error {
		for _, attached := range list {
			m, err := d.managed(ctx, p.record.Account, attached.ID)
			if err := stands(attached, func() int { return m.record.Revision }, err); err != nil {
				return err
			}
			all = append(all, policy.Named{Name: of + m.arn, Document: m.document})
			length += m.length
		}
		return nil
	}
	if err := add("", p.record.Attached); err != nil {
		return nil, err
	}
	for _, in := range p.record.Groups {
		g, err := d.principal(ctx, p.record.Account, in.ID)
		if err := stands(in, func() int { return g.record.Revision }, err); err != nil {
			return nil, err
		}
		of := "group/" + g.record.Name + ": "
		for _, inline := range g.policies {
			all = append(all, policy.Named{Name: of + inline.Name, Document: inline.Document})
		}
		length += g.length
		if err := add(of, g.record.Attached); err != nil {
			return nil, err
		}
	}
	if length > maxPolicyText {
		return nil, fmt.Errorf("they have %d characters together: more than %d are not looked at", length, maxPolicyText)
	}
	return all, nil
}

// sessionPolicies returns all session policies of a session. Where one of them is not there any more, or is of before the session, the
// error is a partError: it may have held a deny, so the session may do nothing then.
func (d *Directory) sessionPolicies(ctx context.Context, s *session) ([]policy.Named, error) {
	if len(s.Managed) == 0 {
		return s.policies, nil
	}
	drops := d.cfg.Cache.Drops()
	if kept := s.all.Load(); kept != nil && kept.drops == drops {
		return kept.policies, nil
	}
	all, err := d.composeSession(ctx, s)
	if _, old := errors.AsType[partError](err); old { // the cache may be from before the session
		if err := d.cfg.Cache.Confirm(ctx); err != nil {
			return nil, err
		}
		drops = d.cfg.Cache.Drops()
		all, err = d.composeSession(ctx, s)
	}
	if err == nil {
		s.all.Store(&composed{drops, all})
	}
	return all, err
}

// composeSession reads and joins the session policies of a session.
func (d *Directory) composeSession(ctx context.Context, s *session) ([]policy.Named, error) {
	all := slices.Clip(s.policies)
	for _, attached := range s.Managed {
		m, err := d.managed(ctx, s.Account, attached.ID)
		if err := stands(attached, func() int { return m.record.Revision }, err); err != nil {
			return nil, err
		}
		all = append(all, policy.Named{Name: m.arn, Document: m.document})
	}
	return all, nil
}

// stands tells what is wrong with a part that was read by its id.
func stands(a keystore.Attached, revision func() int, err error) error {
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		return partError{fmt.Errorf("%s is not in the store", a.ID)} // and not as ErrNotFound, which would mean the principal
	case err != nil:
		return err
	case revision() < a.Revision:
		return partError{fmt.Errorf("%s has revision %d, and %d was there", a.ID, revision(), a.Revision)}
	}
	return nil
}

// unchangedParts binds the commits of a caller to what its groups and managed policies say as they are now, those of its session s among
// them, if it is one.
func (d *Directory) unchangedParts(ctx context.Context, p *principal, s *session) ([]keystore.Change, error) {
	if len(p.record.Attached)+len(p.record.Groups) == 0 && (s == nil || len(s.Managed) == 0) {
		return nil, nil
	}
	_, version, err := records.ReadCounter(ctx, d.cfg.Store, "", p.record.Account, keystore.CounterPolicyChanges)
	if err != nil {
		return nil, err
	}
	// What the cache holds after this is no older than the counter that was read.
	if err := d.cfg.Cache.Confirm(ctx); err != nil {
		return nil, err
	}
	ref := keystore.CounterRef("", p.record.Account, keystore.CounterPolicyChanges)
	return []keystore.Change{{Op: keystore.Check, Ref: ref, Expect: version}}, nil
}

// policiesChanged counts one more change of what the account's groups and managed policies say. It goes into the commit of that change.
func (c *call) policiesChanged(ctx context.Context) (keystore.Change, error) {
	counter, version, err := records.ReadCounter(ctx, c.dir.cfg.Store, "", c.caller.account, keystore.CounterPolicyChanges)
	counter.N++
	return counter.Put(version), err
}
