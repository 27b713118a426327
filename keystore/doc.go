// Package keystore is the contract for key metadata: what is remembered about keys, never the keys themselves.
//
// A Store holds small versioned records. Open one from a subpackage (keystore/sqlite is the embedded default), read
// with Get, List and Lookup, change with Commit:
//
//	rec, err := store.Get(ctx, ref)
//	key, err := keystore.DecodeKey(rec)
//	key.State = keystore.Disabled
//	_, err = store.Commit(ctx, key.Put(rec.Version))
//
// Commit is a conditional batch: each change states the version it expects, all changes happen or none does, and the
// result is durable when Commit returns. There are no other transactions and no locks to hold. Whoever loses a race
// gets ErrConflict, reads again and decides anew.
//
// The package imports no driver. A new store implements Store and runs the suite of package keystoretest.
package keystore
