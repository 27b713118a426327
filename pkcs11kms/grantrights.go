package pkcs11kms

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// What grants add to a decision is asked only where the policies alone do not allow, and costs the same however many grants there
// are: all that the grants on a key give to one principal is in one record, which the cache holds as it holds a key. A refusal reads
// the records of the caller, of the role of a session and of its account, whether there is such a key or not, so that it tells nothing.

// grantsFor returns the grants that may allow what a question asks. What the permission would rest on is noted in the request, so that
// the commit of a call that writes is bound to it.
func (c *Client) grantsFor(ctx context.Context, op *ops.Operation, q *question, who iam.Identity) (grants []policy.Grant, err error) {
	if op == ops.RetireGrant {
		return retiringRights(q.about.req.retire), nil // which its commit deletes
	}
	caller := who.Principal()
	account := caller.Account
	principals := []string{caller.ID, account}
	if caller.RoleID != "" { // a session has what its role is given as well
		principals = []string{caller.ID, caller.RoleID, account}
	}
	for _, principal := range slices.Compact(principals) {
		rights, version, err := c.rightsOf(ctx, q, keystore.OwnerValue(account, principal))
		if err != nil {
			return nil, err
		}
		grants = append(grants, rights...)
		if op.Writes && len(rights) > 0 {
			ref := keystore.GranteeRef(q.about.ref.Region, q.about.ref.Account, q.about.ref.ID, keystore.OwnerValue(account, principal))
			q.about.req.bound = append(q.about.req.bound, keystore.Change{Op: keystore.Check, Ref: ref, Expect: version})
		}
	}
	return grants, nil
}

// granteeRecord is what decisions keep of a keystore.Grantee; it is never changed.
type granteeRecord struct {
	cka     keystore.HexBytes
	rights  []policy.Grant
	version uint64
}

func decodeGrantee(rec keystore.Record) (*granteeRecord, error) {
	record, err := keystore.DecodeGrantee(rec)
	if err != nil {
		return nil, err
	}
	g := &granteeRecord{cka: record.CKAID, version: rec.Version}
	account, id, _ := strings.Cut(record.Principal, "/")
	for _, set := range record.Gives {
		g.rights = append(g.rights, policy.Grant{Account: account, Grantee: id, Operations: set.Operations})
	}
	return g, nil
}

// rightsOf reads what the grants on a key give to a principal.
func (c *Client) rightsOf(ctx context.Context, q *question, principal string) ([]policy.Grant, uint64, error) {
	ref := keystore.GranteeRef(q.about.ref.Region, q.about.ref.Account, q.about.ref.ID, principal)
	var found *granteeRecord
	var err error
	if q.about.cached {
		found, _, err = records.Cached[*granteeRecord](ctx, c.bridge.core.Cache, ref)
	} else {
		found, err = records.Fresh(ctx, c.bridge.core.Cache, ref, decodeGrantee)
	}
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil || found == nil || q.about.key == nil || !slices.Equal(found.cka, q.about.key.Record.CKAID) {
		return nil, 0, err
	}
	return found.rights, found.version, nil
}

// retiringRights are those that a grant gives over itself: to its retiring principal, and to its grantee if it lists RetireGrant.
func retiringRights(g *grantRecord) (grants []policy.Grant) {
	if g == nil {
		return nil
	}
	right := func(principal string) {
		account, id, _ := strings.Cut(principal, "/")
		grants = append(grants, policy.Grant{Account: account, Grantee: id, Operations: []string{ops.RetireGrant.Name}})
	}
	if g.Retiring != "" {
		right(g.Retiring)
	}
	if slices.Contains(g.Operations, ops.RetireGrant.Name) {
		right(g.Grantee)
	}
	return grants
}
