package pkcs11kms

import (
	"errors"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyid"
)

// keyID is a parsed KeyId: a key or an alias, with the region and account it lives in.
type keyID struct {
	region  string
	account string
	id      string // bare key id, when it names a key
	alias   string // alias name with its prefix, when it names an alias
}

// parseKeyID reads the forms of a KeyId. Bare names mean the Client's own region and account.
func (c *Client) parseKeyID(text string, aliases bool) (keyID, error) {
	home := keyid.Home{Partition: c.bridge.cfg.Partition, Region: c.region.Name, Account: c.caller.Account()}
	id, err := keyid.Parse(text, home, aliases)
	if refused, ok := errors.AsType[*keyid.Error](err); ok && refused.ARN {
		return keyID{}, apierr.InvalidArn("%s", refused.Text)
	}
	if err != nil {
		return keyID{}, apierr.NotFound("%v", err)
	}
	return keyID{region: id.Region, account: id.Account, id: id.Key, alias: id.Alias}, nil
}

// arn returns the ARN of the key or alias.
func (c *Client) arn(id keyID) string {
	return keyid.ID{Region: id.region, Account: id.account, Key: id.id, Alias: id.alias}.ARN(c.bridge.cfg.Partition)
}
