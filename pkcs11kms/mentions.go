package pkcs11kms

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// What a policy or a grant says of an account that there is not has no effect until the account is made. Here it is found before.

// mentions are the places that count for an account once it is made: statements of key policies and of roles' trust policies that name it,
// somebody in it or everybody, and grants to it.
func (b *Bridge) mentions(ctx context.Context, store keystore.Store, account string) (places []string, err error) {
	err = records.EachIndexed(ctx, store, keystore.IndexCKAID, func(rec keystore.Record) error {
		key, err := keystore.DecodeKey(rec)
		for _, statement := range statementsNaming(key.Policy, account) {
			arn := (&Client{bridge: b}).arn(keyID{region: key.Region, account: key.Account, id: key.ID})
			places = append(places, "key policy of "+arn+": "+statement)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = records.EachIndexed(ctx, store, keystore.IndexPrincipalName, func(rec keystore.Record) error {
		role, err := keystore.DecodePrincipal(rec)
		for _, statement := range statementsNaming(role.TrustPolicy, account) {
			places = append(places, "trust policy of the role "+role.Name+" of account "+role.Account+": "+statement)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	root := keystore.OwnerValue(account, account)
	err = records.EachIndexed(ctx, store, keystore.IndexGrantKey, func(rec keystore.Record) error {
		grant, err := keystore.DecodeGrant(rec)
		if grant.Grantee == root || grant.Retiring == root {
			places = append(places, "grant "+grant.ID+" on the key "+grant.Key+" of account "+grant.Account)
		}
		return err
	})
	return places, err
}

// statementsNaming names the statements of a policy that allow an account, somebody in it or everybody. What is no policy has none.
func statementsNaming(text, account string) (found []string) {
	type statement struct {
		Sid, Effect             string
		Principal, NotPrincipal json.RawMessage
	}
	var document struct{ Statement json.RawMessage }
	if text == "" || json.Unmarshal([]byte(text), &document) != nil {
		return nil
	}
	for i, raw := range listOf(document.Statement) {
		var s statement
		if json.Unmarshal(raw, &s) != nil || s.Effect != "Allow" || s.NotPrincipal == nil && !names(s.Principal, account) {
			continue
		}
		name := fmt.Sprintf("statement %d", i+1)
		if s.Sid != "" {
			name += fmt.Sprintf(" %q", s.Sid)
		}
		found = append(found, name)
	}
	return found
}

// names tells whether a Principal is an account, somebody in it, or everybody.
func names(principal json.RawMessage, account string) bool {
	var byKind map[string]json.RawMessage
	values := []json.RawMessage{principal}
	if json.Unmarshal(principal, &byKind) == nil {
		values = listOf(byKind["AWS"])
	}
	for _, raw := range values {
		var value string
		if json.Unmarshal(raw, &value) != nil {
			continue
		}
		if parts := strings.Split(value, ":"); value == "*" || value == account || len(parts) > 5 && parts[4] == account {
			return true
		}
	}
	return false
}

// listOf is what a member of a policy has: one value, or a list of them.
func listOf(raw json.RawMessage) (list []json.RawMessage) {
	if json.Unmarshal(raw, &list) != nil {
		return []json.RawMessage{raw}
	}
	return list
}
