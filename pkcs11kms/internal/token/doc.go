// Package token is the device: it keeps HMAC keys and key pairs in a PKCS#11 token, computes MACs and signs with them. It
// knows PKCS#11 and knows nothing of KMS.
//
// Open finds one token by its RFC 7512 URI, logs in, and probes what the token can do. GenerateHMACKey makes a key that
// never leaves the token; HMACKey names one by its CKA_ID; MAC computes a tag in one part, NewStream in many. Verifying
// is the caller's: compute the tag again and compare in constant time. C_Verify is not used, since modules differ in what
// they accept around a good MAC.
//
// GenerateKeyPair makes an RSA or elliptic curve pair, whose private half never leaves the token, and returns the public one;
// KeyPair names one; Sign and SignDigest sign. The hash is made here, and the token signs the digest (CKM_RSA_PKCS,
// CKM_RSA_PKCS_PSS, CKM_ECDSA): these are the mechanisms that every token has which can sign at all. A signature is verified
// with package pubkey, without the token.
//
// # Modules
//
// A PKCS#11 module is one instance per file and process, whoever loads it. The package counts its users, initialises it
// for the first and finalizes it after the last. A module that the host application had initialised is used, but never
// finalized. SoftHSM reads its configuration when it is initialised only, so one process can work with one SoftHSM
// configuration.
//
// # Sessions
//
// Sessions come from a bounded pool. They are opened when they are needed, used by one call at a time, and thrown away
// after an unexpected error. One more session stays open for good: PKCS#11 ends the login with the last session.
//
// # Deadlines
//
// A C call cannot be interrupted. If the caller's context can end (its Done is not nil), the call runs on the session's
// own goroutine; when the context or Config.CallTimeout ends first, the caller gets a *HungError at once, and the session
// returns to the pool as a free place only after the C call has come back. If the context cannot end, the call runs on
// the caller's goroutine, which saves about 3 µs, and waits for as long as the device takes.
//
// # Other processes
//
// Several processes may work with one token at once, and each sees at once what another has made or destroyed. On SoftHSM
// that holds among processes that make and destroy objects through this package: they take turns by a lock on SoftHSM's
// configuration file, and SoftHSM reads its directory anew in each turn, in time proportional to the objects in the token.
// A change waits for its turn at most for Config.CallTimeout. MACs take no part in that.
//
// An object handle can become another object's when other clients destroy and make objects (handle.go). What a handle was found for
// is read again after it was used and before the answer leaves: at each use, or once a second on tokens that are known to answer
// a stale handle with an error.
//
// # PINs
//
// The PIN is read at each login, handed to the module, and kept nowhere. A wrong PIN is never tried twice, and no attempt
// is made when the token says that few are left.
//
// # A lost device
//
// One rule says that the device is lost (lost.go): it does not answer on fresh sessions either. From then on nobody calls the module but
// one goroutine, which brings the device back (reconnect.go): by new sessions and a login, or by a module that is initialised anew.
// Calls wait for it while the outage is younger than Config.CallTimeout, and get ErrGone when it is older. Handles and sessions carry the
// generation of the connection, so that none can outlive it. State tells.
//
// # Limits
//
// A call that hangs inside the module cannot be ended, and while there is one the module is not initialised anew.
package token
