// Package sqlite keeps the records of a keystore.Store in one SQLite file. It is the default store: several processes
// of one machine may share the file.
//
//	err := sqlite.Create(path)                             // once, by init
//	store, err := sqlite.Open(ctx, path, sqlite.Options{}) // never creates
//	defer store.Close()
//
// # Files
//
// Beside the file stand SQLite's own "-wal" and "-shm" files while the store is open; they belong to it and must be
// moved and copied with it, or better not at all: use SQLite's backup. The directory "locks" beside it holds one lock
// file for each instance. All of them must be on a local file system: locks of network file systems are not
// dependable. Only the user who owns the file may use it.
//
// # Durability
//
// The file is in WAL mode with synchronous=FULL: a Commit that returned is on the disk. Nothing is ever repaired or
// recreated silently: a file that is damaged, foreign, or of a newer version is an error and is left as it is.
//
// On a file system that is mounted read-only a store can be read; a Commit is keystore.ErrReadOnly.
//
// # Versions
//
// SQLite's user_version is the least version of the program that reads the store, see Version. Open refuses an earlier one and a
// later one. Migrate brings an earlier one to this version, while no process has it open, and keeps a copy of it.
//
// # Errors
//
// What goes wrong outside the contract of keystore.Store is an *Error. Its Hint says what a person can do about it.
package sqlite
