package pkcs11kms

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// A grant is a record of its own. In one Commit with it change the number of the grants on its key and, where it has no constraint, the
// record of what all grants on the key give to its grantee, which is what decisions read (grantrights.go). The Commit is bound to the key's
// record as well: so neither a grant on a key that is being deleted, nor one by a key policy that has changed, is ever made.

// CreateGrant lets a principal do some operations with a key: GenerateMac and VerifyMac with an HMAC key, Sign, Verify and GetPublicKey
// with a signing key, and DescribeKey, CreateGrant and RetireGrant with either. It counts at once. With a Name, a call that is repeated
// finds the grant that the first one made. Who may call it by a grant alone makes grants that give no more than that one.
func (c *Client) CreateGrant(ctx context.Context, in *kms.CreateGrantInput, optFns ...func(*kms.Options)) (*kms.CreateGrantOutput, error) {
	return perform(ctx, c, ops.CreateGrant, in, optFns, func(_ *Client, in *kms.CreateGrantInput) (request, error) {
		return request{keyID: in.KeyId, grantTokens: in.GrantTokens, given: givenGrant(in), child: childOf(in),
			dryRun: aws.ToBool(in.DryRun)}, checkCreateGrant(in)
	}, func(
		ctx context.Context, c *call, in *kms.CreateGrantInput, k *key,
	) (*kms.CreateGrantOutput, error) {
		grant, err := c.askedGrant(ctx, in, k)
		if err != nil {
			return nil, err
		}
		if grant, err = c.makeGrant(ctx, grant, k); err != nil {
			return nil, err
		}
		return &kms.CreateGrantOutput{GrantId: aws.String(grant.ID), GrantToken: aws.String(newGrantToken(grant))}, nil
	})
}

// checkCreateGrant checks what the constraints of the model leave to the operation, and what no key changes.
func checkCreateGrant(in *kms.CreateGrantInput) error {
	switch {
	case len(in.Operations) == 0:
		return apierr.Validation("1 validation error detected: Value '[]' at 'operations' failed to satisfy constraint: " +
			"Member must have length greater than or equal to 1")
	case in.GranteePrincipal == nil && in.GranteeServicePrincipal == nil, in.GranteePrincipal != nil && in.GranteeServicePrincipal != nil:
		return apierr.Validation("Specify either GranteePrincipal or GranteeServicePrincipal.")
	case in.RetiringPrincipal != nil && in.RetiringServicePrincipal != nil:
		return apierr.Validation("Specify either RetiringPrincipal or RetiringServicePrincipal, not both.")
	case !slices.ContainsFunc(in.Operations, func(o types.GrantOperation) bool { return o != types.GrantOperationCreateGrant }):
		return apierr.Validation("Grants must not contain only the CreateGrant operation.")
	}
	return nil
}

// askedGrant is the grant that an input asks for, if the key can have it.
func (c *call) askedGrant(ctx context.Context, in *kms.CreateGrantInput, k *key) (g keystore.Grant, err error) {
	if in.GranteeServicePrincipal != nil || in.RetiringServicePrincipal != nil {
		return g, apierr.Unsupported("Service principals are not supported: no AWS service calls here.")
	}
	for _, operation := range in.Operations {
		if !grantableOn(string(operation), k) {
			return g, apierr.Validation(fmt.Sprintf("Operation %s is not valid in a grant on a key with KeyUsage %s.", operation, k.Record.Usage))
		}
	}
	if limits := in.Constraints; limits != nil && len(limits.EncryptionContextEquals)+len(limits.EncryptionContextSubset) > 0 {
		return g, apierr.Validation(fmt.Sprintf("Encryption context constraints are not valid in a grant on a key with KeyUsage %s.",
			k.Record.Usage))
	}
	g = keystore.Grant{
		Region: k.Record.Region, Account: k.Record.Account, Key: k.Record.ID, CKAID: k.Record.CKAID, Name: aws.ToString(in.Name),
		Issuer: c.caller.Account(), Operations: c.req.child.Operations, SourceARN: c.req.child.SourceARN, Created: c.bridge.core.Now(),
	}
	if g.Grantee, err = c.namedPrincipal(ctx, *in.GranteePrincipal); err == nil && in.RetiringPrincipal != nil {
		g.Retiring, err = c.namedPrincipal(ctx, *in.RetiringPrincipal)
	}
	return g, err
}

// grantableOn tells whether a grant on a key can list an operation: one that can succeed with the key.
func grantableOn(operation string, k *key) bool {
	op := ops.Find(kmsService, operation)
	if op == nil || !op.Grantable || op.Answer != ops.Done || op == ops.GetPublicKey && k.Record.Usage != ops.Sign.Usage {
		return false
	}
	return op.Usage == "" || op.Usage == k.Record.Usage
}

// childOf is what the grant that an input asks for would give.
func childOf(in *kms.CreateGrantInput) *policy.Child {
	child := &policy.Child{}
	for _, operation := range in.Operations {
		child.Operations = append(child.Operations, string(operation))
	}
	slices.Sort(child.Operations)
	child.Operations = slices.Compact(child.Operations)
	if in.Constraints != nil {
		child.SourceARN = aws.ToString(in.Constraints.SourceArn)
	}
	return child
}

// givenGrant are the condition keys of CreateGrant.
func givenGrant(in *kms.CreateGrantInput) map[string][]string {
	given := givenForService()
	for _, operation := range in.Operations {
		given["kms:grantoperations"] = append(given["kms:grantoperations"], string(operation))
	}
	put := func(name string, value *string) {
		if value != nil {
			given[name] = []string{*value}
		}
	}
	put("kms:granteeprincipal", in.GranteePrincipal)
	put("kms:granteeserviceprincipal", in.GranteeServicePrincipal)
	put("kms:retiringprincipal", in.RetiringPrincipal)
	put("kms:retiringserviceprincipal", in.RetiringServicePrincipal)
	if limits := in.Constraints; limits != nil {
		put("kms:grantconstraintsourcearn", limits.SourceArn)
		if limits.EncryptionContextEquals != nil {
			given["kms:grantconstrainttype"] = append(given["kms:grantconstrainttype"], "EncryptionContextEquals")
		}
		if limits.EncryptionContextSubset != nil {
			given["kms:grantconstrainttype"] = append(given["kms:grantconstrainttype"], "EncryptionContextSubset")
		}
	}
	return given
}

// givenForService is the condition key that says whether a service of AWS asks for one of its resources. None ever does.
func givenForService() map[string][]string {
	return map[string][]string{"kms:grantisforawsresource": {"false"}}
}

// makeGrant makes a grant, or finds the one that is just the same.
func (c *call) makeGrant(ctx context.Context, g keystore.Grant, k *key) (keystore.Grant, error) {
	if g.Name != "" {
		same, err := c.bridge.core.Store.Lookup(ctx, keystore.IndexGrantSame, g.SameValue(), keystore.Ref{}, 1)
		if err != nil {
			return g, err
		}
		if len(same) > 0 {
			if g, err = keystore.DecodeGrant(same[0]); err == nil && c.req.dryRun {
				err = apierr.DryRun()
			}
			return g, err
		}
	}
	random := make([]byte, 32)
	rand.Read(random) // never fails, see crypto/rand
	g.ID = hex.EncodeToString(random)
	g.TokenKey = make([]byte, 32)
	rand.Read(g.TokenKey)
	changes, err := c.countGrant(ctx, g, 1)
	if err != nil {
		return g, err
	}
	if c.req.dryRun {
		return g, apierr.DryRun()
	}
	if err := c.commitGrant(ctx, k, append(changes, g.Put(0))...); err != nil {
		return g, err
	}
	c.created = func(ctx context.Context) error { return c.takeBackGrant(ctx, g.Ref()) }
	return g, nil
}

// takeBackGrant removes a grant that nobody was told of.
func (c *call) takeBackGrant(ctx context.Context, ref keystore.Ref) error {
	return records.RetryConflicts(ctx, func() error {
		grant, err := records.Fresh(ctx, c.bridge.core.Cache, ref, decodeGrant)
		if err != nil {
			return records.IgnoreNotFound(err)
		}
		changes, err := c.countGrant(ctx, grant.Grant, -1)
		if err != nil {
			return err
		}
		changes = append(changes, keystore.Change{Op: keystore.Delete, Ref: ref, Expect: grant.version})
		_, err = c.bridge.core.Cache.Commit(ctx, changes...)
		return err
	})
}

// commitGrant makes changes to a grant on a key that is as it was when the call was permitted.
func (c *call) commitGrant(ctx context.Context, k *key, changes ...keystore.Change) error {
	return c.commit(ctx, append(changes, keystore.Change{Op: keystore.Check, Ref: k.Record.Ref(), Expect: k.Version})...)
}

// countGrant returns the changes of the records beside a grant that count it in (n is 1) or out (-1).
func (c *call) countGrant(ctx context.Context, g keystore.Grant, n int) ([]keystore.Change, error) {
	store := c.bridge.core.Store
	counter, version, err := records.ReadCounter(ctx, store, g.Region, g.Account, keystore.CounterGrants+g.Key)
	if err != nil {
		return nil, err
	}
	counter.N = max(0, counter.N+n)
	if limit := c.bridge.cfg.Quotas.GrantsPerKey; n > 0 && counter.N > limit {
		return nil, apierr.LimitExceeded(fmt.Sprintf("The key has reached its limit of %d grants.", limit))
	}
	var changes []keystore.Change
	switch {
	case counter.N > 0:
		changes = append(changes, counter.Put(version))
	case version > 0:
		changes = append(changes, keystore.Change{Op: keystore.Delete, Ref: counter.Put(0).Ref, Expect: version})
	}
	if g.SourceARN != "" {
		return changes, nil // no request to this service has the ARN that it asks for
	}
	grantee, version, err := readGrantee(ctx, store, g)
	if err != nil {
		return nil, err
	}
	if grantee.Add(g.Operations, n); len(grantee.Gives) > 0 || version > 0 {
		changes = append(changes, grantee.Put(version))
	}
	return changes, nil
}

// readGrantee reads what a grantee has by the grants on the key of a grant: nothing, of version 0, where there is no record.
func readGrantee(ctx context.Context, store records.Getter, g keystore.Grant) (keystore.Grantee, uint64, error) {
	none := keystore.Grantee{Region: g.Region, Account: g.Account, Key: g.Key, Principal: g.Grantee, CKAID: g.CKAID}
	rec, err := store.Get(ctx, none.Ref())
	if err != nil {
		return none, 0, records.IgnoreNotFound(err)
	}
	grantee, err := keystore.DecodeGrantee(rec)
	if err == nil && !slices.Equal(grantee.CKAID, g.CKAID) {
		grantee = none // of what had the key id before
	}
	return grantee, rec.Version, err
}

// namedPrincipal returns what a grant keeps of a principal, see keystore.OwnerValue. As in a key policy, users and roles must exist, in
// whatever account; accounts are taken without a look.
func (c *call) namedPrincipal(ctx context.Context, arn string) (string, error) {
	owner, ok, err := c.bridge.ownerOf(ctx, arn)
	if err == nil && !ok {
		err = apierr.InvalidArn("ARN does not refer to a valid principal: %s", arn)
	}
	return owner, err
}

// ownerOf finds the principal of an ARN, see keystore.OwnerValue; ok tells whether there is one.
func (b *Bridge) ownerOf(ctx context.Context, arn string) (owner string, ok bool, err error) {
	account := iam.AccountOfARN(arn)
	if b.isAccountRoot(arn) {
		return keystore.OwnerValue(account, account), true, nil
	}
	if !strings.HasPrefix(arn, "arn:") {
		return "", false, nil
	}
	id, ok, err := b.core.Identities.ARNToID(ctx, arn)
	return keystore.OwnerValue(account, id), ok, err
}

// RevokeGrant ends a grant on a key, whatever the key's state: nobody is allowed anything by it any more, in this process at once, in
// every other within a second. Grants that its grantee has made by it stay.
func (c *Client) RevokeGrant(ctx context.Context, in *kms.RevokeGrantInput, optFns ...func(*kms.Options)) (*kms.RevokeGrantOutput, error) {
	return perform(ctx, c, ops.RevokeGrant, in, optFns, func(_ *Client, in *kms.RevokeGrantInput) (request, error) {
		return request{keyID: in.KeyId, given: givenForService(), dryRun: aws.ToBool(in.DryRun)}, nil
	}, func(
		ctx context.Context, c *call, in *kms.RevokeGrantInput, k *key,
	) (*kms.RevokeGrantOutput, error) {
		grant, err := c.grantOn(ctx, k, *in.GrantId)
		if err != nil {
			return nil, err
		}
		return &kms.RevokeGrantOutput{}, c.endGrant(ctx, grant, k)
	})
}

// grantRecord is a grant as the operations see it; it is never changed.
type grantRecord struct {
	keystore.Grant
	version uint64
}

func decodeGrant(rec keystore.Record) (*grantRecord, error) {
	grant, err := keystore.DecodeGrant(rec)
	return &grantRecord{grant, rec.Version}, err
}

// grantOn reads the grant with an id, which must be on the key.
func (c *call) grantOn(ctx context.Context, k *key, id string) (*grantRecord, error) {
	grant, err := records.Fresh(ctx, c.bridge.core.Cache, keystore.GrantRef(k.Record.Region, k.Record.Account, id), decodeGrant)
	if errors.Is(err, keystore.ErrNotFound) || err == nil && !grant.isOn(k) {
		return nil, noGrant(id)
	}
	return grant, err
}

// isOn tells whether the grant is on the key, and not on one that had its id before.
func (g *grantRecord) isOn(k *key) bool {
	return k != nil && g.Region == k.Record.Region && g.Account == k.Record.Account && g.Key == k.Record.ID &&
		slices.Equal(g.CKAID, k.Record.CKAID)
}

// noGrant is the answer about a grant of a key, to those who may ask about the key.
func noGrant(id string) error { return apierr.NotFound("Grant ID %s not found", id) }

// endGrant removes a grant.
func (c *call) endGrant(ctx context.Context, g *grantRecord, k *key) error {
	if c.req.dryRun {
		return apierr.DryRun()
	}
	changes, err := c.countGrant(ctx, g.Grant, -1)
	if err != nil {
		return err
	}
	return c.commitGrant(ctx, k, append(changes, keystore.Change{Op: keystore.Delete, Ref: g.Ref(), Expect: g.version})...)
}
