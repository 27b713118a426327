package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// An account owns keys, aliases, users and roles; nobody of another one has anything to do with them unless a key policy or a grant says
// so, and the other account's own policies do. The configuration names one. Others are made while servers run, and are never removed.

// Account is an owner of keys and principals.
type Account struct {
	ID      string // 12 digits
	Name    string // what it is for; may be empty
	ARN     string // of its root
	Created time.Time
}

// NewAccount says what CreateAccount is to make.
type NewAccount struct {
	ID   string // 12 digits
	Name string // what it is for, at most 128 bytes; may be empty
	// Agreed makes the account although there are policies and grants that count for it from then on.
	Agreed bool
}

// CreateAccount makes an account. It counts at once in this process, and within a second in every other. What policies and grants of
// before say of the number or of everybody counts for its root, users and roles from then on: where there are such, and nobody has Agreed,
// the error is a *RefusedError that lists them. The Client's caller is of the account that the configuration names, and needs the
// permission pkcs11kms:CreateAccount.
func (c *Client) CreateAccount(ctx context.Context, in NewAccount) (made Account, err error) {
	record := keystore.Account{ID: in.ID, Name: in.Name, Created: c.bridge.cfg.Now().UTC().Truncate(time.Second)}
	switch {
	case !keystore.IsAccountID(in.ID):
		return Account{}, &RefusedError{Problem: fmt.Sprintf("account id %q is not 12 digits", in.ID), Advice: "give the number of an account"}
	case !keystore.IsAccountName(in.Name):
		return Account{}, &RefusedError{Problem: "the account's name is too long, or not printable",
			Advice: fmt.Sprintf("it may have %d bytes of printable characters", keystore.MaxAccountName)}
	}
	shown := map[string]any{"accountId": in.ID, "accountName": in.Name}
	err = Administer(ctx, c, ops.CreateAccount, shown, func(ctx context.Context, inside *core.Core, bound []keystore.Change) error {
		return c.bridge.createAccount(ctx, inside, record, in.Agreed, bound)
	})
	if err != nil {
		return Account{}, err
	}
	return c.bridge.accountOf(record), nil
}

// ListAccounts returns the accounts, the one that the configuration names first and the others ordered by number. The first has no Created
// before CreateAccount was called for another one. The Client's caller is of the account that the configuration names, and needs the
// permission pkcs11kms:ListAccounts.
func (c *Client) ListAccounts(ctx context.Context) (list []Account, err error) {
	err = Administer(ctx, c, ops.ListAccounts, nil, func(ctx context.Context, inside *core.Core, _ []keystore.Change) error {
		found, err := records.Accounts(ctx, inside.Store, inside.Account)
		for _, record := range found {
			list = append(list, c.bridge.accountOf(record))
		}
		return err
	})
	return list, err
}

func (b *Bridge) accountOf(a keystore.Account) Account {
	return Account{ID: a.ID, Name: a.Name, ARN: b.core.Identities.Root(a.ID).ARN(), Created: a.Created}
}

// RootOf returns the root principal of an account, for Client.As. NoSuchEntity when there is no such account.
func (b *Bridge) RootOf(ctx context.Context, account string) (Caller, error) {
	return b.core.Identities.Caller(ctx, b.core.Identities.Root(account).ARN())
}

func (b *Bridge) createAccount(
	ctx context.Context, inside *core.Core, record keystore.Account, agreed bool, bound []keystore.Change,
) error {
	_, err := inside.Store.Get(ctx, record.Ref())
	if err == nil || record.ID == inside.Account {
		return &RefusedError{Problem: "there is an account " + record.ID + " already", Advice: "see which there are: pkcs11kms iam list-accounts"}
	}
	if !errors.Is(err, keystore.ErrNotFound) {
		return err
	}
	if !agreed {
		if err := b.refuseMentioned(ctx, inside, record.ID); err != nil {
			return err
		}
	}
	counter, version, err := records.ReadCounter(ctx, inside.Store, "", "", keystore.CounterAccounts)
	if err != nil {
		return err
	}
	changes := []keystore.Change{record.Put(0)}
	// The configured account has a record from here on: it stays an account when the configuration names another one.
	first := keystore.Account{ID: inside.Account, Created: record.Created}
	if _, err := inside.Store.Get(ctx, first.Ref()); errors.Is(err, keystore.ErrNotFound) {
		changes = append(changes, first.Put(0))
	} else if err != nil {
		return err
	}
	if counter.N += len(changes); counter.N > keystore.MaxAccounts {
		return &RefusedError{Problem: fmt.Sprintf("there are %d accounts already, which is the most", keystore.MaxAccounts),
			Advice: "use another state directory for more"}
	}
	_, err = inside.Cache.Commit(ctx, append(append(changes, counter.Put(version)), bound...)...)
	return err
}

// mostMentions bounds how many places a refusal lists.
const mostMentions = 50

// refuseMentioned refuses to make an account that policies or grants count for, with a list of them.
func (b *Bridge) refuseMentioned(ctx context.Context, inside *core.Core, account string) error {
	places, err := b.mentions(ctx, inside.Store, account)
	if err != nil || len(places) == 0 {
		return err
	}
	n := len(places)
	if n > mostMentions {
		places = append(places[:mostMentions], fmt.Sprintf("and %d more", n-mostMentions))
	}
	return &RefusedError{
		Problem: fmt.Sprintf("%d policies and grants name the account %s or everybody, and would count for it", n, account),
		Advice:  strings.Join(places, "\n") + "\nif that is meant: pkcs11kms iam create-account --account-id " + account + " --yes"}
}
