// Package records is how a process uses a store of records: a cache that fails closed, through which all commits go; whether the
// store can be written to; and the small things that every reader needs, such as repeating what lost a race and walking an index.
// It knows what a record is, and nothing of keys.
package records
