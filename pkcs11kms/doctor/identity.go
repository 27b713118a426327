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
			for _, inline := range record.Policies {
				d.examineIdentityPolicy(record, inline)
			}
			if record.Trust != "" {
				d.advise(string(record.Type), record.Name, StatusWarning,
					"its trust policy is of an earlier version of the program, which let nobody assume roles: it has no effect",
					"if it is meant, set it again: pkcs11kms iam update-assume-role-policy --role-name "+record.Name)
			}
			return nil
		})
		if err != nil {
			d.fail("store", "users and roles", err)
		}
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

func (d *examination) examineIdentityPolicy(record keystore.Principal, inline keystore.InlinePolicy) {
	document, err := policy.ParseIdentityPolicy(inline.Document)
	if err != nil {
		text := fmt.Sprintf("its policy %q cannot be read, so it may do nothing: %v", inline.Name, err)
		d.advise(string(record.Type), record.Name, StatusError, text,
			"restore the store from a backup; this program never wrote such a policy")
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
	show := "pkcs11kms iam get-user-policy --user-name "
	if record.Type == keystore.PrincipalRole {
		show = "pkcs11kms iam get-role-policy --role-name "
	}
	d.advise(string(record.Type), record.Name, StatusWarning, text,
		"if that is not meant, put it again with kms: actions only: "+show+record.Name+" --policy-name "+inline.Name+d.inAccount(record.Account))
}

// inAccount is the flag of a command for another account than the one that it works for.
func (d *examination) inAccount(account string) string {
	if account == d.cfg.AccountID {
		return ""
	}
	return " --account-id " + account
}
