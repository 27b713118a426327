package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyid"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// Operations on aliases need the permission on the alias, which only the caller's own policies can give, and on each key
// that they concern.
//
// An alias is a record of its own. The key's record counts its aliases, and both change in one Commit: so the quota holds
// for all processes at once, and an alias and the deletion of its key cannot pass each other.

// aliasRecord is an alias as the operations see it; it is never changed.
type aliasRecord struct {
	record  keystore.Alias
	version uint64
}

func decodeAlias(rec keystore.Record) (*aliasRecord, error) {
	record, err := keystore.DecodeAlias(rec)
	return &aliasRecord{record: record, version: rec.Version}, err
}

// checkAliasName applies what the real service asks of a name beyond the pattern of its model.
func checkAliasName(name string) error {
	rest, ok := strings.CutPrefix(name, keyid.AliasPrefix)
	switch {
	case !ok || rest == "":
		return apierr.Validation(`Alias must start with the prefix "alias/". Please see ` +
			`https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html`)
	case strings.HasPrefix(rest, "aws/"):
		return apierr.NotAuthorized()
	case strings.Contains(rest, ":"):
		return apierr.Validation(name + " contains invalid characters for an alias")
	}
	return nil
}

// checkTarget refuses an alias in the place of a key.
func (c *Client) checkTarget(target *string) error {
	if id, err := c.parseKeyID(*target, true); err == nil && id.alias != "" {
		return apierr.Validation("Aliases must refer to keys. Not aliases")
	}
	return nil
}

// CreateAlias gives a key another name, beginning with alias/. It can be used at once wherever a KeyId may be an alias.
func (c *Client) CreateAlias(ctx context.Context, in *kms.CreateAliasInput, optFns ...func(*kms.Options)) (*kms.CreateAliasOutput, error) {
	return perform(ctx, c, ops.CreateAlias, in, optFns, func(c *Client, in *kms.CreateAliasInput) (request, error) {
		return request{keyID: in.TargetKeyId, aliasName: *in.AliasName}, c.checkAliasInput(in.AliasName, in.TargetKeyId)
	}, func(
		ctx context.Context, c *call, in *kms.CreateAliasInput, k *key,
	) (*kms.CreateAliasOutput, error) {
		return &kms.CreateAliasOutput{}, c.createAlias(ctx, *in.AliasName, k)
	})
}

func (c *Client) checkAliasInput(name, target *string) error {
	if err := checkAliasName(*name); err != nil {
		return err
	}
	return c.checkTarget(target)
}

func (c *call) createAlias(ctx context.Context, name string, k *key) error {
	now := c.bridge.core.Now()
	alias := keystore.Alias{Region: c.region.Name, Account: c.caller.Account(), Name: name, Target: k.Record.ID, Created: now, Updated: now}
	_, err := c.bridge.core.Store.Get(ctx, alias.Ref())
	if err == nil {
		return apierr.AliasExists(c.aliasARN(name))
	}
	if !errors.Is(err, keystore.ErrNotFound) {
		return err
	}
	gained, err := c.countAlias(k, 1)
	if err != nil {
		return err
	}
	return c.commit(ctx, alias.Put(0), gained)
}

// countAlias returns the change of the key's record that counts aliases in or out.
func (c *Client) countAlias(k *key, n int) (keystore.Change, error) {
	record := k.Record
	record.Aliases += n
	if limit := c.bridge.cfg.Quotas.AliasesPerKey; n > 0 && record.Aliases > limit {
		return keystore.Change{}, apierr.LimitExceeded(fmt.Sprintf("The key has reached its limit of %d aliases.", limit))
	}
	return record.Put(k.Version), nil
}

func (c *Client) aliasARN(name string) string {
	return c.arn(keyID{region: c.region.Name, account: c.caller.Account(), alias: name})
}

// UpdateAlias points an alias to another key of the same kind and usage. Callers by the alias use the new key at once.
func (c *Client) UpdateAlias(ctx context.Context, in *kms.UpdateAliasInput, optFns ...func(*kms.Options)) (*kms.UpdateAliasOutput, error) {
	return perform(ctx, c, ops.UpdateAlias, in, optFns, func(c *Client, in *kms.UpdateAliasInput) (request, error) {
		return request{keyID: in.TargetKeyId, aliasName: *in.AliasName}, c.checkAliasInput(in.AliasName, in.TargetKeyId)
	}, func(
		ctx context.Context, c *call, in *kms.UpdateAliasInput, k *key,
	) (*kms.UpdateAliasOutput, error) {
		return &kms.UpdateAliasOutput{}, c.updateAlias(ctx, *in.AliasName, k)
	})
}

func (c *call) updateAlias(ctx context.Context, name string, to *key) error {
	alias, err := c.freshAlias(ctx, name)
	if err != nil {
		return err
	}
	from, err := c.bridge.key(ctx, keystore.KeyRef(c.region.Name, c.caller.Account(), alias.record.Target), true)
	if err != nil && !errors.Is(err, keystore.ErrNotFound) {
		return err
	}
	record := alias.record
	record.Target, record.Updated = to.Record.ID, c.bridge.core.Now()
	changes := []keystore.Change{record.Put(alias.version)}
	if from != nil {
		if err := c.authoriseTarget(ctx, ops.UpdateAlias, name, from); err != nil {
			return err
		}
		if from.Record.Usage != to.Record.Usage || reflect.TypeOf(from.Material) != reflect.TypeOf(to.Material) {
			return apierr.Validation(fmt.Sprintf("Alias %s can only be associated with a key of the same type and usage.", name))
		}
		if from.Record.ID == to.Record.ID {
			same := keystore.Change{Op: keystore.Check, Ref: to.Record.Ref(), Expect: to.Version}
			return c.commit(ctx, append(changes, same)...)
		}
		lost, err := c.countAlias(from, -1)
		if err != nil {
			return err
		}
		changes = append(changes, lost)
	}
	gained, err := c.countAlias(to, 1)
	if err != nil {
		return err
	}
	return c.commit(ctx, append(changes, gained)...)
}

func (c *Client) freshAlias(ctx context.Context, name string) (*aliasRecord, error) {
	alias, err := records.Fresh(ctx, c.bridge.core.Cache, keystore.AliasRef(c.region.Name, c.caller.Account(), name), decodeAlias)
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, apierr.AliasNotFound(c.aliasARN(name))
	}
	return alias, err
}

// DeleteAlias removes an alias, whatever the state of its key. The name is free at once.
func (c *Client) DeleteAlias(ctx context.Context, in *kms.DeleteAliasInput, optFns ...func(*kms.Options)) (*kms.DeleteAliasOutput, error) {
	return perform(ctx, c, ops.DeleteAlias, in, optFns, func(_ *Client, in *kms.DeleteAliasInput) (request, error) {
		return request{aliasName: *in.AliasName}, checkAliasName(*in.AliasName)
	}, func(
		ctx context.Context, c *call, in *kms.DeleteAliasInput, _ *key,
	) (*kms.DeleteAliasOutput, error) {
		return &kms.DeleteAliasOutput{}, c.deleteAlias(ctx, *in.AliasName)
	})
}

func (c *call) deleteAlias(ctx context.Context, name string) error {
	alias, err := c.freshAlias(ctx, name)
	if err != nil {
		return err
	}
	changes := []keystore.Change{{Op: keystore.Delete, Ref: alias.record.Ref(), Expect: alias.version}}
	k, err := c.bridge.key(ctx, keystore.KeyRef(c.region.Name, c.caller.Account(), alias.record.Target), true)
	switch {
	case err == nil:
		if err := c.authoriseTarget(ctx, ops.DeleteAlias, name, k); err != nil {
			return err
		}
		lost, err := c.countAlias(k, -1)
		if err != nil {
			return err
		}
		changes = append(changes, lost)
	case !errors.Is(err, keystore.ErrNotFound):
		return err
	}
	return c.commit(ctx, changes...)
}

// ListAliases returns the aliases of the account and region, or of one key, ordered by name; Limit 1 to 100, default 50.
func (c *Client) ListAliases(ctx context.Context, in *kms.ListAliasesInput, optFns ...func(*kms.Options)) (*kms.ListAliasesOutput, error) {
	return perform(ctx, c, ops.ListAliases, in, optFns, func(_ *Client, in *kms.ListAliasesInput) (request, error) {
		return request{keyID: in.KeyId}, nil
	}, func(
		ctx context.Context, c *call, in *kms.ListAliasesInput, k *key,
	) (*kms.ListAliasesOutput, error) {
		out := &kms.ListAliasesOutput{Aliases: []types.AliasListEntry{}}
		keyID := "" // of all keys
		if k != nil {
			keyID = k.Record.ID
		}
		p := page{op: ops.ListAliases.Name, filter: keyID, limit: in.Limit, max: 100, normal: 50, marker: in.Marker}
		more, err := c.walk(ctx, p, c.aliasesAfter(keyID), func(rec keystore.Record) error {
			record, err := keystore.DecodeAlias(rec)
			out.Aliases = append(out.Aliases, c.aliasEntry(record))
			return err
		})
		out.Truncated, out.NextMarker = more != nil, more
		return out, err
	})
}

// aliasesAfter reads aliases behind a name: all of them, or those of one key.
func (c *Client) aliasesAfter(keyID string) reader {
	return func(ctx context.Context, after string, limit int) ([]keystore.Record, error) {
		if keyID == "" {
			return c.bridge.core.Store.List(ctx, keystore.KindAlias, c.region.Name, c.caller.Account(), after, limit)
		}
		var from keystore.Ref
		if after != "" {
			from = keystore.AliasRef(c.region.Name, c.caller.Account(), after)
		}
		value := keystore.TargetValue(c.region.Name, c.caller.Account(), keyID)
		return c.bridge.core.Store.Lookup(ctx, keystore.IndexAliasTarget, value, from, limit)
	}
}

func (c *Client) aliasEntry(a keystore.Alias) types.AliasListEntry {
	return types.AliasListEntry{
		AliasName:       aws.String(a.Name),
		AliasArn:        aws.String(c.aliasARN(a.Name)),
		TargetKeyId:     aws.String(a.Target),
		CreationDate:    aws.Time(a.Created),
		LastUpdatedDate: aws.Time(a.Updated),
	}
}
