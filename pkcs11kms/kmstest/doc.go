// Package kmstest gives tests a real KMS of their own: the AWS KMS API for HMAC and signing keys, in process or over HTTP, on
// a SoftHSM token and a store that are gone when the test ends. Nothing is faked, so what a test sees is what a deployment
// answers, errors included.
//
// Code that uses the AWS SDK gets a running server and a configuration for it in one call:
//
//	func TestPayments(t *testing.T) {
//		srv := kmstest.NewServer(t)
//		client := kms.NewFromConfig(srv.Config())
//		key := kmstest.MustCreateKey(t, client, types.KeySpecHmac256)
//		...
//	}
//
// Other programs take srv.URL as --endpoint-url, and srv.Env() as their environment. Code that takes an interface of KMS
// operations needs no server: [NewClient] returns a client that works in process.
//
// Each call has a token, a store and a port of its own, so tests may be parallel. Without SoftHSM the test is skipped and
// says how to install it; PKCS11KMS_REQUIRE=softhsm in the environment makes that a failure.
//
// # Limits
//
// The module is initialised for the first server or client of a process and finalized with the last, and a lock keeps this
// package's part in that from itself. Tests that beside it use package softhsm, a Bridge or another PKCS#11 library on
// SoftHSM must not do so in parallel with it.
package kmstest
