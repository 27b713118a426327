package iam

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/guard"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/lastuse"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// Config is what a Directory works with. Every field is required that is no bool.
type Config struct {
	Partition string   // the second part of every ARN
	Accounts  []string // those that there are without a record; the store has the others, and everybody else is nobody
	Regions   []string // in which access keys are used

	Store keystore.Store
	Cache *records.Cache // of Store; commits go through it
	// MAC makes 32 bytes of a message by a key that stays the same, of which the secrets of access keys are made: a pseudorandom function.
	// Each epoch has a key: an access key has the epoch that Newest told when it was made.
	MAC func(ctx context.Context, epoch uint32, message []byte) ([]byte, error)
	// Newest tells the epoch of new access keys, and what must hold while one is made.
	Newest func(context.Context) (epoch uint32, holds keystore.Change, err error)
	// Epoch changes when what was made of MAC by the key of an epoch is not to be believed any more. It is as current as what Cache
	// confirms.
	Epoch func(ctx context.Context, epoch uint32) (Epoch, error)
	// Latest is the latest time that the store has seen; the zero Time where it has seen none.
	Latest func(context.Context) (time.Time, error)

	NoRates          bool // the requests of an account are not limited
	NoRoleAccessKeys bool // access keys of roles are not made, and those that there are not known

	Audit audit.Writer
	Log   *slog.Logger
	Now   func() time.Time
}

// Epoch is a time in which MAC is made by one key. Two that differ are different times; which came first cannot be told.
type Epoch struct {
	Key      uint64 // the version of the record of MAC's key, whichever process has made that; 0 while there is none
	Mistaken uint64 // how often another token was in the place of the right one
}

// Directory knows the users, roles and access keys of a store. It asks nobody for permission: a Client does. It is safe for
// concurrent use.
type Directory struct {
	cfg    Config
	uses   *lastuse.AccessKeys
	coming chan later // signing keys to be made for the day after

	tokenKeys  *tokenKeys
	sessions   *sessions
	storeClock storeClock
	rates      guard.Rates
}

// New makes a Directory.
func New(cfg Config) *Directory {
	uses := lastuse.NewAccessKeys(cfg.Cache.Direct(), cfg.Now, cfg.Log) // whose commits go through the cache, as all do
	return &Directory{cfg: cfg, uses: uses, coming: make(chan later, comingKeys), tokenKeys: newTokenKeys(),
		sessions: newSessions()}
}

// Client returns a handle on the operations of AWS IAM, without a Caller: give it one with As. It is cheap.
func (d *Directory) Client() *Client { return &Client{dir: d} }

// Root returns the root of an account. It may do everything there that key policies leave to the account, if there is such an account.
func (d *Directory) Root(account string) Caller {
	return Caller{account: account, arn: d.arn(account, "root"), id: account}
}

// Caller returns the Caller with this ARN: the root of an account, or a user or role that there is. NoSuchEntity when there is none.
func (d *Directory) Caller(ctx context.Context, arn string) (Caller, error) {
	if account, isRoot := d.RootAccount(arn); isRoot {
		there, err := d.answersFor(ctx, account)
		if err == nil && !there {
			err = failure(noSuchEntity, "The principal with ARN %s cannot be found.", arn)
		}
		return answered(d.Root(account), err)
	}
	record, err := d.principalByARN(ctx, arn)
	if errors.Is(err, keystore.ErrNotFound) {
		return Caller{}, failure(noSuchEntity, "The principal with ARN %s cannot be found.", arn)
	}
	if err != nil {
		return Caller{}, err
	}
	return d.callerOf(record), nil
}

// ARNToID returns the unique id that the ARN of a user, a role or a session of a role stands for now; ok tells whether there is one: a
// session need not be there, its role must. Roots have none.
func (d *Directory) ARNToID(ctx context.Context, arn string) (id string, ok bool, err error) {
	if account, roleName, name, isSession := d.parseSessionARN(arn); isSession {
		if ok, err = d.answersFor(ctx, account); err != nil || !ok {
			return "", false, err
		}
		role, _, err := d.find(ctx, account, PrincipalName{keystore.PrincipalRole, roleName})
		if errors.Is(err, keystore.ErrNotFound) {
			return "", false, nil
		}
		return sessionID(role.ID, name), err == nil, err
	}
	record, err := d.principalByARN(ctx, arn)
	if errors.Is(err, keystore.ErrNotFound) {
		return "", false, nil
	}
	return record.ID, err == nil, err
}

// IDToARN returns the ARN of the user, role or session of an account with a unique id; ok tells whether there is one still, or its role.
func (d *Directory) IDToARN(ctx context.Context, account, id string) (arn string, ok bool, err error) {
	record, name, isSession := strings.Cut(id, ":")
	p, err := d.principal(ctx, account, record)
	if errors.Is(err, keystore.ErrNotFound) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	if isSession {
		isRole := p.record.Type == keystore.PrincipalRole && isSessionName(name)
		return d.sessionARN(account, p.record.Name, name), isRole, nil
	}
	return p.arn, p.record.Type.IsCaller(), nil
}

// arn is that of what IAM has in an account.
func (d *Directory) arn(account, resource string) string {
	return "arn:" + d.cfg.Partition + ":iam::" + account + ":" + resource
}

func (d *Directory) principalARN(p keystore.Principal) string {
	return d.arn(p.Account, string(p.Type)+p.Path+p.Name)
}

func (d *Directory) callerOf(p keystore.Principal) Caller {
	return Caller{account: p.Account, arn: d.principalARN(p), id: p.ID}
}

// answersFor tells whether an account is one of this service. One that is made counts within a second in every process.
func (d *Directory) answersFor(ctx context.Context, account string) (bool, error) {
	if slices.Contains(d.cfg.Accounts, account) {
		return true, nil
	}
	if !keystore.IsAccountID(account) {
		return false, nil
	}
	return records.IsAccount(ctx, d.cfg.Cache, account)
}

// RootAccount takes the account out of the ARN of an account's root, whether there is such an account or not.
func (d *Directory) RootAccount(arn string) (account string, ok bool) {
	rest, iam := strings.CutPrefix(arn, "arn:"+d.cfg.Partition+":iam::")
	account, root := strings.CutSuffix(rest, ":root")
	return account, iam && root && keystore.IsAccountID(account)
}

// principalByARN reads the user or role that has exactly this ARN now, or keystore.ErrNotFound.
func (d *Directory) principalByARN(ctx context.Context, arn string) (keystore.Principal, error) {
	account, name, ok := d.parsePrincipalARN(arn)
	var err error
	if ok {
		ok, err = d.answersFor(ctx, account)
	}
	if err != nil {
		return keystore.Principal{}, err
	}
	if !ok {
		return keystore.Principal{}, keystore.ErrNotFound
	}
	record, _, err := d.find(ctx, account, name)
	if err == nil && d.principalARN(record) != arn {
		err = keystore.ErrNotFound // another path
	}
	return record, err
}

// parsePrincipalARN takes account and name out of an ARN. What comes before the name is left to the caller.
func (d *Directory) parsePrincipalARN(arn string) (account string, name PrincipalName, ok bool) {
	rest, _ := strings.CutPrefix(arn, "arn:"+d.cfg.Partition+":iam::")
	account, resource, _ := strings.Cut(rest, ":")
	kind, rest, ok := strings.Cut(resource, "/")
	name = PrincipalName{keystore.PrincipalType(kind), rest[strings.LastIndexByte(rest, '/')+1:]}
	return account, name, ok && name.Type.IsCaller() && namePattern.MatchString(name.Name)
}

// find reads the record of a principal, past the cache, and its version; keystore.ErrNotFound when there is none.
func (d *Directory) find(ctx context.Context, account string, name PrincipalName) (keystore.Principal, uint64, error) {
	value := keystore.PrincipalNameValue(account, name.Type, name.Name)
	recs, err := d.cfg.Store.Lookup(ctx, keystore.IndexPrincipalName, value, keystore.Ref{}, 1)
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
