package keystore

import (
	"context"
	"errors"
)

// Kind says what a record describes. It is the first part of every Ref.
type Kind string

const (
	KindKey    Kind = "key"    // a KMS key: Value is a Key
	KindRegion Kind = "region" // the token a region is bound to: Value is a Region

	KindAlias   Kind = "alias"   // another name of a key: Value is an Alias
	KindCounter Kind = "counter" // a number that a quota bounds: Value is a Counter

	KindAccessKey Kind = "access-key" // what a caller signs with: Value is an AccessKey. Of no region and account
	KindPrincipal Kind = "principal"  // a user, role or group: Value is a Principal. Of no region

	KindManagedPolicy Kind = "policy" // a policy that many can have: Value is a ManagedPolicy. Of no region
	KindMember        Kind = "member" // who has a policy attached, or is in a group: Value is a Member. Of no region

	KindOIDCProvider Kind = "oidc-provider" // an issuer of tokens that an account takes: Value is an OIDCProvider. Of no region

	KindKeyUse Kind = "key-use" // the last use of a key's material: Value is a KeyUse. Its Ref is the key's but for the kind

	KindGrant   Kind = "grant"   // what a principal may do with a key: Value is a Grant
	KindGrantee Kind = "grantee" // what all grants on a key give to one principal: Value is a Grantee

	KindAccount Kind = "account" // an owner of keys and principals: Value is an Account. Of no region and account

	KindSeals Kind = "seals" // that and how the records of the store are sealed: Value is a Seals. Of no region and account; there is one
)

// Ref names one record. Records of one Kind, Region and Account are ordered by ID, byte by byte.
type Ref struct {
	Kind    Kind
	Region  string
	Account string
	ID      string
}

// Record is one versioned record as the store holds it.
type Record struct {
	Ref Ref
	// Version is the number of the Commit that wrote this value. Numbers of one store only grow, so that a record
	// that was deleted and made again never shows a version it had before.
	Version uint64
	// Value is the canonical encoding made by Key.Put, Region.Put and so on.
	Value []byte
	// Seal proves who wrote Value at this place, see Seals. A store keeps it and does not look at it; the Decode functions take no record
	// that still has one, so that nobody reads what nobody has checked. Empty in a store whose records are not sealed.
	Seal []byte
}

// Index names a way to find records other than by Ref.
type Index string

const (
	// IndexCKAID finds the key record by its CKA_ID. Unique in the store: a Commit that would give one value to two
	// records fails with ErrExists.
	IndexCKAID Index = "cka-id"
	// IndexUnfinished finds the key records in the states Creating and Deleting, and those whose material is being imported or deleted, by
	// the instance that works on them.
	IndexUnfinished Index = "unfinished"
	// IndexPendingDeletion finds the key records in the state PendingDeletion by their date (RFC 3339, UTC).
	IndexPendingDeletion Index = "pending-deletion"
	// IndexValidTo finds the key records with imported material by the time when that expires (RFC 3339, UTC).
	IndexValidTo Index = "valid-to"
	// IndexAliasTarget finds the aliases of a key, see TargetValue.
	IndexAliasTarget Index = "alias-target"
	// IndexAccessKeyOwner finds the access keys of a principal that are not deleted, see OwnerValue.
	IndexAccessKeyOwner Index = "access-key-owner"
	// IndexPrincipalName finds a principal by its name, see PrincipalNameValue. Unique in the store, as IndexCKAID.
	IndexPrincipalName Index = "principal-name"
	// IndexPolicyName finds a managed policy by its name, see ManagedPolicyValue. Unique in the store, as IndexCKAID.
	IndexPolicyName Index = "policy-name"
	// IndexGrantKey finds the grants on a key, see TargetValue.
	IndexGrantKey Index = "grant-key"
	// IndexGrantGrantee finds the grants on a key to one grantee, see GranteeValue.
	IndexGrantGrantee Index = "grant-grantee"
	// IndexGrantRetiring finds the grants that a principal may retire, see RetiringValue.
	IndexGrantRetiring Index = "grant-retiring"
	// IndexGrantSame finds the grant with a name that is just as another would be, see Grant.SameValue. Unique in the store, as IndexCKAID.
	IndexGrantSame Index = "grant-same"
)

// Unique tells whether at most one record of the store may carry a given value of the index.
func (i Index) Unique() bool {
	return i == IndexCKAID || i == IndexPrincipalName || i == IndexPolicyName || i == IndexGrantSame
}

// Entry is one value under which an index finds a record. A record has at most one entry per index.
type Entry struct {
	Index Index
	Value string
}

// Op is what a Change does to its record.
type Op int

const (
	Check  Op = iota // touch nothing: only the version is compared
	Put              // write Value and replace the record's index entries by Index
	Delete           // remove the record and its index entries
)

// Change is one condition and, unless Op is Check, one effect of a Commit.
type Change struct {
	Op  Op
	Ref Ref
	// Expect is the version that the record must have now; 0 means that it must not exist.
	Expect uint64
	Value  []byte  // Put only
	Seal   []byte  // Put only
	Index  []Entry // Put only
}

// MaxChanges is the largest number of changes of one Commit, MaxPage the largest page of List and Lookup,
// MaxValue the largest Value in bytes.
const (
	MaxChanges = 64
	MaxPage    = 1000
	MaxValue   = 256 << 10
)

// Mark is a moment in the life of a store, see Store.ChangedSince. It is made by the store and means nothing to others; the zero
// Mark is before everything. Equal marks: no record was put or deleted in between.
type Mark string

// Changed is what has changed in a store since a Mark.
type Changed struct {
	Now  Mark  // what to ask from the next time
	Refs []Ref // the records that were put or deleted, in no order; one that was changed twice may be there twice
	All  bool  // which records cannot be told (any more): all of them may have changed. Refs is empty then
}

// The sentinels. Every other error is a failure of the store itself (disk, lock, network), and none of the call's
// effects can be relied on or excluded.
var (
	// ErrNotFound: Get found no such record.
	ErrNotFound = errors.New("no such record")
	// ErrConflict: a Commit's Expect did not hold. Nothing was changed; read again and decide anew.
	ErrConflict = errors.New("record was changed by somebody else")
	// ErrExists: a Commit would have put one value of a unique index on two records. Nothing was changed.
	ErrExists = errors.New("index value is taken")
	// ErrAlive: TakeOver was asked for an instance that is still running.
	ErrAlive = errors.New("instance is alive")
	// ErrUndecided: TakeOver cannot tell whether an instance is alive somewhere. Its work must be left alone.
	ErrUndecided = errors.New("whether the instance is alive cannot be told here")
	// ErrReplaced: the store that was opened is no longer the one at its place (file replaced or removed). Final.
	ErrReplaced = errors.New("store was replaced while it was open")
	// ErrBusy: others held the store all the while that a Commit waited for its turn. Nothing was changed; the same
	// Commit may succeed later. The text names who holds it, where that can be known.
	ErrBusy = errors.New("store is busy")
	// ErrFull: the disk, or a quota, has no room for a change. Nothing was changed.
	ErrFull = errors.New("store has no room")
	// ErrReadOnly: the store can be read and not changed where it is.
	ErrReadOnly = errors.New("store is read-only")
	// ErrClosed: the store was used after Close.
	ErrClosed = errors.New("store is closed")
)

// Store keeps records. Implementations are safe for concurrent use by many goroutines, and by many processes that
// each opened the same store; package keystoretest holds what they have in common.
//
// Every method returns ctx.Err (wrapped) when ctx ends first; a Commit that ends so may or may not have happened.
type Store interface {
	// Get returns the record, or ErrNotFound. It sees every Commit that returned before Get was called, in
	// whatever process.
	Get(ctx context.Context, ref Ref) (Record, error)

	// List returns up to limit (1..MaxPage) records of one kind, region and account with an ID greater than after,
	// ordered by ID. Fewer than limit means that there are no more. The cost does not depend on the position.
	List(ctx context.Context, kind Kind, region, account, after string, limit int) ([]Record, error)

	// Lookup returns up to limit (1..MaxPage) records that carry the value in the index, ordered by Ref (kind,
	// region, account, id) and after the given one (the zero Ref: from the start). An empty value means every
	// record that carries the index.
	Lookup(ctx context.Context, index Index, value string, after Ref, limit int) ([]Record, error)

	// Range returns up to limit (1..MaxPage) records whose value in a unique index begins with prefix and is greater than after, ordered by
	// that value, byte by byte. The cost does not depend on the position.
	Range(ctx context.Context, index Index, prefix, after string, limit int) ([]Record, error)

	// All returns up to limit (1..MaxPage) records of every kind, ordered by Ref and after the given one (the zero Ref: from the start).
	// Fewer than limit means that there are no more.
	All(ctx context.Context, after Ref, limit int) ([]Record, error)

	// Commit applies all changes or none, and returns the version that every Put of the batch now has. The
	// conditions of all changes are examined in one serialisable step with the effects, and before the unique
	// indexes: of ErrConflict and ErrExists the first wins. What CheckChanges refuses is an error. ErrBusy when others
	// keep it from its turn for a time that its package names, ErrFull and ErrReadOnly when the disk takes no change.
	// When it returns without error the changes survive a crash of the process and of the machine.
	Commit(ctx context.Context, changes ...Change) (uint64, error)

	// ChangedSince tells which records were put or deleted, by this or any other process, after the moment of a mark: each
	// Commit that completed before ChangedSince was called is told, and one that completes meanwhile is told now or by the
	// next call. A Commit is told whole. Marks are moments of what the store holds and not of this opening of it: a mark of
	// another store, of a time that a restored backup has not seen, or of a time too long ago is answered by All. It is cheap
	// and has resources of its own, so that it does not queue behind other calls. ErrReplaced when the store at this
	// place is no longer the one that was opened.
	ChangedSince(ctx context.Context, since Mark) (Changed, error)

	// Instance returns the name of this opening of the store: random, never used again, alive (see TakeOver) from
	// before the first Commit until Close or the end of the process.
	Instance() string

	// TakeOver proves that an instance is dead and keeps others from taking it over at the same time. ErrAlive
	// when it runs, or when somebody else is taking it over now; ErrUndecided when it cannot be told, because what
	// the store keeps of the instance is not here: in a copy or a restored backup of the store, after a restart of
	// the machine, or when it was forgotten. release must be called once; with forget it also removes what the
	// store keeps of the instance, unless records still name it.
	TakeOver(ctx context.Context, instance string) (release func(forget bool), err error)

	// Verify reads everything and reports the first damage it finds. Slow: for doctor.
	Verify(ctx context.Context) error

	// Close gives everything back. It waits for the calls under way, which may finish or end with ErrClosed; calls
	// after it get ErrClosed. The second Close returns what the first did.
	Close() error
}

// Backuper is a Store that can write a copy of itself to a file while it is in use. Others are backed up by the means of
// their own server.
type Backuper interface {
	Store

	// Backup writes one moment of the store to a new file: every Commit that returned before Backup was called is in it,
	// and none by halves. Commits, of whatever process, go on meanwhile. What is at path already is never replaced, and
	// without success nothing is left there. When it returns without error the file is complete, verified and durable.
	Backup(ctx context.Context, path string) error

	// DeadDrafts returns, by path, the files that backups and restores of the store have left half made because they were
	// killed. The next Backup removes them.
	DeadDrafts() ([]string, error)
}

// Snapshots is a Store that can show one moment of itself.
type Snapshots interface {
	Store

	// Snapshot visits all records as they are at one moment, ordered by Ref, a page at a time, while Commits go on. It returns the number
	// of the last Commit that they show.
	Snapshot(ctx context.Context, visit func([]Record) error) (version uint64, err error)
}

// Sole is a Store that can tell whether anybody else has it open.
type Sole interface {
	Store

	// Alone waits a while for others to end, and returns an error when one does not. Who opens the store later is not seen.
	Alone(ctx context.Context) error
}
