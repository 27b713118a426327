package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// examineIdentities lists the policies of users and roles that allow more than the use of keys: actions of AWS IAM, and those of this
// service's own by which an operator works on records and objects. Policies with "Action": "*" were written when nothing but kms:
// actions was ever asked for.
func (d *examination) examineIdentities(ctx context.Context) {
	for _, account := range d.accounts {
		err := records.EachOf(ctx, d.store, keystore.KindPrincipal, "", account, func(rec keystore.Record) error {
			record, err := keystore.DecodePrincipal(rec)
			if err != nil {
				return err
			}
			show := fmt.Sprintf("pkcs11kms iam get-%s-policy --%[1]s-name %s", record.Type, record.Name)
			for _, inline := range record.Policies {
				d.examineIdentityPolicy(string(record.Type), record.Name, inline, show+" --policy-name "+inline.Name+d.inAccount(account))
			}
			if record.Trust != "" {
				d.advise(string(record.Type), record.Name, StatusWarning,
					"its trust policy is of an earlier version of the program, which let nobody assume roles: it has no effect",
					"if it is meant, set it again: pkcs11kms iam update-assume-role-policy --role-name "+record.Name)
			}
			return d.examineAttached(ctx, record)
		})
		if err == nil {
			err = records.EachOf(ctx, d.store, keystore.KindManagedPolicy, "", account, func(rec keystore.Record) error {
				record, err := keystore.DecodeManagedPolicy(rec)
				if err != nil {
					return err
				}
				version, _ := record.Version(record.Default)
				d.examineIdentityPolicy("policy", record.Name, keystore.InlinePolicy{Name: record.Name, Document: version.Document},
					"pkcs11kms iam list-policies"+d.inAccount(account))
				return nil
			})
		}
		if err != nil {
			d.fail("store", "users, roles and policies", err)
		}
	}
}

// examineAttached looks whether the managed policies and groups that a user, role or group names are there, and not from before.
func (d *examination) examineAttached(ctx context.Context, record keystore.Principal) error {
	for _, a := range slices.Concat(record.Attached, record.Groups) {
		ref := keystore.ManagedPolicyRef(record.Account, a.ID)
		if slices.Contains(record.Groups, a) {
			ref = keystore.PrincipalRef(record.Account, a.ID)
		}
		revision, why := 0, "is not in the store"
		rec, err := d.store.Get(ctx, ref)
		if err == nil && ref.Kind == keystore.KindManagedPolicy {
			var p keystore.ManagedPolicy
			p, err = keystore.DecodeManagedPolicy(rec)
			revision, why = p.Revision, "is from before it got that"
		} else if err == nil {
			var p keystore.Principal
			p, err = keystore.DecodePrincipal(rec)
			revision, why = p.Revision, "is from before it got that"
		}
		if err := records.IgnoreNotFound(err); err != nil {
			return err
		}
		if revision < a.Revision {
			d.advise(string(record.Type), record.Name, StatusError,
				"what it has of "+a.ID+" "+why+", and may have denied something: it may do nothing",
				"restore the store from a backup; or delete the "+string(record.Type)+" and make it anew")
		}
	}
	return nil
}

// examineRoleKeys lists the access keys of roles, which AWS does not have: sessions act for roles there, and here too.
func (d *examination) examineRoleKeys(ctx context.Context) {
	err := records.EachIndexed(ctx, d.store, keystore.IndexAccessKeyOwner, func(rec keystore.Record) error {
		key, err := keystore.DecodeAccessKey(rec)
		if err != nil || key.Owner == key.Account || !slices.Contains(d.accounts, key.Account) {
			return err
		}
		owner, err := d.store.Get(ctx, keystore.PrincipalRef(key.Account, key.Owner))
		if errors.Is(err, keystore.ErrNotFound) {
			return nil // what is counted tells of that
		}
		var record keystore.Principal
		if err == nil {
			record, err = keystore.DecodePrincipal(owner)
		}
		if err != nil || record.Type != keystore.PrincipalRole {
			return err
		}
		if !d.cfg.NoRoleAccessKeys {
			d.add("role", record.Name, StatusOK, "has the access key "+key.ID+", "+string(key.Status)+"; in AWS sessions alone act for a role")
			return nil
		}
		d.advise("role", record.Name, StatusWarning, "has the access key "+key.ID+", which nobody can use: role-access-keys is off",
			"have its user assume the role; then: pkcs11kms iam delete-access-key --access-key-id "+key.ID+d.inAccount(key.Account))
		return nil
	})
	if err != nil {
		d.fail("store", "access keys of roles", err)
	}
}

// examineSecrets looks whether there are records of the service keys that made the secrets of the access keys there are. Their objects are
// examined with the other keys'.
func (d *examination) examineSecrets(ctx context.Context) {
	made, err := accessKeysByEpoch(ctx, d.store)
	if err != nil {
		d.fail("store", "access keys", err)
		return
	}
	for _, epoch := range slices.Sorted(maps.Keys(made)) {
		there, err := d.hasServiceKey(ctx, keyring.EpochName(keyring.SecretsKey, epoch))
		switch {
		case err != nil:
			d.fail("store", "access keys", err)
		case !there:
			d.advise("key", keyring.EpochName(keyring.SecretsKey, epoch), StatusError, fmt.Sprintf("has no record, and there are %d access keys: "+
				"their secrets are void", len(made[epoch])),
				"restore the store from a backup that has it; or have the key made anew: pkcs11kms doctor --repair")
		}
	}
}

func (d *examination) hasServiceKey(ctx context.Context, name string) (bool, error) {
	for _, region := range d.regions() {
		_, err := d.store.Get(ctx, keystore.KeyRef(region, "", name))
		if !errors.Is(err, keystore.ErrNotFound) {
			return err == nil, err
		}
	}
	return false, nil
}

// accessKeysByEpoch returns the access keys that are not deleted by the epoch of the service key that makes their secrets.
func accessKeysByEpoch(ctx context.Context, store keystore.Store) (map[uint32][]keystore.AccessKey, error) {
	made := map[uint32][]keystore.AccessKey{}
	err := records.EachOf(ctx, store, keystore.KindAccessKey, "", "", func(rec keystore.Record) error {
		record, err := keystore.DecodeAccessKey(rec)
		if err == nil && record.Status != keystore.AccessKeyDeleted {
			epoch := max(1, record.Epoch)
			made[epoch] = append(made[epoch], record)
		}
		return err
	})
	return made, err
}

func (d *examination) examineIdentityPolicy(area, name string, inline keystore.InlinePolicy, show string) {
	document, err := policy.ParseIdentityPolicy(inline.Document)
	if err != nil {
		text := fmt.Sprintf("its policy %q cannot be read, so it may do nothing: %v", inline.Name, err)
		d.advise(area, name, StatusError, text, "restore the store from a backup; this program never wrote such a policy")
		return
	}
	var more []string
	for op := range ops.All {
		// Those of CloudTrail change nothing, and roles say themselves whom they trust.
		if !op.Free && !slices.Contains([]string{"kms", "cloudtrail", "sts"}, op.Service) && document.MayAllow(op.ActionName()) {
			more = append(more, op.ActionName())
		}
	}
	if len(more) == 0 {
		return
	}
	text := fmt.Sprintf("its policy %q allows more than the use of keys: %s", inline.Name, more[0])
	if len(more) > 1 {
		text += fmt.Sprintf(" and %d more", len(more)-1)
	}
	d.advise(area, name, StatusWarning, text, "if that is not meant, put it again with kms: actions only: "+show)
}

// inAccount is the flag of a command for another account than the one that it works for.
func (d *examination) inAccount(account string) string {
	if account == d.cfg.AccountID {
		return ""
	}
	return " --account-id " + account
}
