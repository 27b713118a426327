// Package sealed keeps the records of a keystore from being edited behind the program's back. A Store writes with each record a seal: an
// HMAC-SHA-256, by a key that a service key of the HSM derives, over the store's id, the key epoch, the record's place, a revision and its
// value. What it reads it hands out only with the seal that belongs there.
//
// The seal key stays in the memory of the process, as the secrets of access keys do: who reads that can forge seals until all records are
// sealed anew. A store that was put back whole to an earlier moment has seals that are right; the audit log tells of that.
package sealed
