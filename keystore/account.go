package keystore

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Account is an owner of keys and principals. Its record makes it one: a store in which nobody has made an account has none, and the one
// that the configuration names needs none. An account is never removed.
type Account struct {
	ID string `json:"-"` // 12 digits

	Name    string    `json:"name,omitempty"` // what it is for, to those who look; at most MaxAccountName bytes
	Created time.Time `json:"created"`        // UTC, whole seconds
}

// MaxAccounts bounds how many accounts a store may have, and MaxAccountName the bytes of a name.
const (
	MaxAccounts    = 1000
	MaxAccountName = 128
)

// CounterAccounts counts the records of accounts; of no region and account.
const CounterAccounts = "accounts"

var accountPattern = regexp.MustCompile(`^[0-9]{12}$`)

// IsAccountID tells whether a text has the form of an account's number.
func IsAccountID(id string) bool { return accountPattern.MatchString(id) }

// IsAccountName tells whether a text can be the name of an account: printable characters, and not too many.
func IsAccountName(name string) bool {
	return len(name) <= MaxAccountName && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
}

// AccountRef names the record of an account.
func AccountRef(id string) Ref { return Ref{Kind: KindAccount, ID: id} }

// Ref names the record.
func (a Account) Ref() Ref { return AccountRef(a.ID) }

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (a Account) Put(expect uint64) Change {
	return Change{Op: Put, Ref: a.Ref(), Expect: expect, Value: encode(a)}
}

// DecodeAccount reads the account of a record.
func DecodeAccount(r Record) (Account, error) {
	a := Account{ID: r.Ref.ID}
	if r.Ref.Kind != KindAccount || r.Ref.Region != "" || r.Ref.Account != "" {
		return Account{}, fmt.Errorf("record %s/%s is not an account", r.Ref.Kind, r.Ref.ID)
	}
	return decodeChecked(r, a, "account record")
}

func (a Account) check() error {
	switch {
	case !IsAccountID(a.ID):
		return errors.New("the id is not one of an account")
	case !IsAccountName(a.Name):
		return errors.New("the name is too long, or not printable")
	case a.Created.Location() != time.UTC || a.Created.Nanosecond() != 0:
		return errors.New("unreadable value: no time in whole seconds of UTC")
	}
	return nil
}
