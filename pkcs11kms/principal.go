package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// Access keys, callers and saved key policies are bound to the unique id of a principal, never to its name. So whatever
// was given to a principal ends with it, and a namesake made later begins with nothing.

// PrincipalName names a user or a role of the account. The zero PrincipalName is the account's root, which has access keys
// and nothing else.
type PrincipalName struct {
	Type keystore.PrincipalType
	Name string // 1 to 64 characters of letters, digits and _+=,.@- ; the case counts, except that no two names differ by it alone
}

func (n PrincipalName) root() bool { return n == PrincipalName{} }

// principal is a principal record as the operations see it; it is never changed.
type principal struct {
	record   keystore.Principal
	version  uint64
	arn      string
	caller   Caller
	policies []policy.Named // the inline policies, ordered by name
}

// principal returns a user or role by its unique id: from the cache, whose knowledge is confirmed within the last second.
// keystore.ErrNotFound when there is none (any more). A stored policy that cannot be read is an error: it may deny.
func (b *Bridge) principal(ctx context.Context, id string) (*principal, error) {
	return records.CachedOrFresh(ctx, b.cache, keystore.PrincipalRef(b.cfg.AccountID, id), b.decodePrincipal)
}

func (b *Bridge) decodePrincipal(rec keystore.Record) (*principal, error) {
	record, err := keystore.DecodePrincipal(rec)
	if err != nil {
		return nil, err
	}
	p := &principal{record: record, version: rec.Version, arn: b.principalARN(record), caller: b.callerOf(record)}
	for _, inline := range record.Policies {
		document, err := policy.ParseIdentityPolicy(inline.Document)
		if err != nil {
			return nil, fmt.Errorf("policy %q of %s: %w", inline.Name, p.arn, err)
		}
		p.policies = append(p.policies, policy.Named{Name: inline.Name, Document: document})
	}
	return p, nil
}

func (b *Bridge) principalARN(p keystore.Principal) string {
	return b.iamARN(string(p.Type) + p.Path + p.Name)
}

func (b *Bridge) callerOf(p keystore.Principal) Caller {
	return Caller{account: p.Account, arn: b.principalARN(p), id: p.ID}
}

// Caller returns the Caller with this ARN, for Client.As: the account's root, or a user or role that there is.
// NoSuchEntity when there is none.
func (b *Bridge) Caller(ctx context.Context, arn string) (Caller, error) {
	if root := b.Root(); arn == root.arn {
		return root, nil
	}
	record, err := b.principalByARN(ctx, arn)
	if errors.Is(err, keystore.ErrNotFound) {
		return Caller{}, iamError(noSuchEntity, "The principal with ARN %s cannot be found.", arn)
	}
	if err != nil {
		return Caller{}, err
	}
	return b.callerOf(record), nil
}

// principalByARN reads the user or role that has exactly this ARN now, or keystore.ErrNotFound.
func (b *Bridge) principalByARN(ctx context.Context, arn string) (keystore.Principal, error) {
	name, ok := b.parsePrincipalARN(arn)
	if !ok {
		return keystore.Principal{}, keystore.ErrNotFound
	}
	record, _, err := b.findPrincipal(ctx, name)
	if err == nil && b.principalARN(record) != arn {
		err = keystore.ErrNotFound // another path
	}
	return record, err
}

// parsePrincipalARN takes the name out of an ARN of this account. What comes before the name is left to the caller.
func (b *Bridge) parsePrincipalARN(arn string) (PrincipalName, bool) {
	for _, t := range []keystore.PrincipalType{keystore.PrincipalUser, keystore.PrincipalRole} {
		if rest, ok := strings.CutPrefix(arn, b.iamARN(string(t)+"/")); ok {
			name := rest[strings.LastIndexByte(rest, '/')+1:]
			return PrincipalName{t, name}, namePattern.MatchString(name)
		}
	}
	return PrincipalName{}, false
}

// findPrincipal reads the record of a principal, past the cache, and its version; keystore.ErrNotFound when there is none.
func (b *Bridge) findPrincipal(ctx context.Context, name PrincipalName) (keystore.Principal, uint64, error) {
	value := keystore.PrincipalNameValue(b.cfg.AccountID, name.Type, name.Name)
	recs, err := b.store.Lookup(ctx, keystore.IndexPrincipalName, value, keystore.Ref{}, 1)
	if err != nil {
		return keystore.Principal{}, 0, err
	}
	if len(recs) == 0 {
		return keystore.Principal{}, 0, keystore.ErrNotFound
	}
	record, err := keystore.DecodePrincipal(recs[0])
	if err == nil && record.Name != name.Name {
		err = keystore.ErrNotFound // another case
	}
	return record, recs[0].Version, err
}

// arnToID returns the unique id that the ARN of a user or role of this account stands for now; ok tells whether there is
// one. The account's root has none.
func (b *Bridge) arnToID(ctx context.Context, arn string) (id string, ok bool, err error) {
	record, err := b.principalByARN(ctx, arn)
	if errors.Is(err, keystore.ErrNotFound) {
		return "", false, nil
	}
	return record.ID, err == nil, err
}

// idToARN returns the ARN of the user or role with a unique id; ok tells whether there is one still.
func (b *Bridge) idToARN(ctx context.Context, id string) (arn string, ok bool, err error) {
	p, err := b.principal(ctx, id)
	if errors.Is(err, keystore.ErrNotFound) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	return p.arn, true, nil
}
