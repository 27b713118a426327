// Package pkcs11kms is the AWS KMS API for HMAC keys and signing keys on your own PKCS#11 token, in process.
//
// Make a state directory once, by the command line (pkcs11kms init) or by statedir.Init. Then:
//
//	cfg, err := statedir.Load("/var/lib/pkcs11kms")
//	client, err := statedir.New(ctx, cfg)
//	defer client.Close()
//	made, err := client.CreateKey(ctx, &kms.CreateKeyInput{
//		KeySpec:  types.KeySpecHmac256,
//		KeyUsage: types.KeyUsageTypeGenerateVerifyMac,
//	})
//	mac, err := client.GenerateMac(ctx, &kms.GenerateMacInput{
//		KeyId:        made.KeyMetadata.KeyId,
//		MacAlgorithm: types.MacAlgorithmSpecHmacSha256,
//		Message:      []byte("message"),
//	})
//
// A Client has the methods of the AWS SDK's *kms.Client with the SDK's own inputs, outputs and errors, so code written
// for an interface cut from *kms.Client works with either. Without a state directory, Open and New take a Config with a store
// of package keystore and the URIs of tokens. Where the answers differ, DIVERGENCES.md beside this file
// says how and why.
//
// # Concepts
//
// The key material is generated and used inside the token and never leaves it. What the Bridge keeps in its store
// (package keystore) is metadata: the key id, the spec, the state, and the CKA_ID by which the token knows the object.
//
// A Bridge owns tokens and caches, and the store if that was handed over (Config.CloseStore); a Client is a cheap handle
// on it for one region and one Caller. The Client that New returns acts as the root of the configured account. A Client
// from Bridge.Client acts for nobody and is refused everything until As gives it a Caller: Root, or what Bridge.Caller
// returns for a user or role. Every operation is decided by the policy of the key and by those of the caller (package
// policy).
//
// Any number of processes may share one store and its tokens. A key that one of them disables is refused by the
// others within a second: what a process has cached counts only as long as it was confirmed against the store in the
// last second, and when the store cannot be asked, operations fail rather than trust the cache.
//
// # Deadlines
//
// A call into a PKCS#11 module cannot be stopped. When the context of an operation can end, the call runs on a
// goroutine of the session, and the operation returns when the context ends or Config.CallTimeout is over. With
// context.Background the call runs directly, a few microseconds faster, and lasts as long as the device takes.
//
// # Limits
//
// Messages of GenerateMac, VerifyMac, Sign and Verify have 1 to 4,096 bytes, as in AWS; NewMAC streams more, and Sign and
// Verify take the digest of a longer one. Keys are HMAC_224, HMAC_256, HMAC_384 and HMAC_512, and for signing RSA_2048,
// RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521, ECC_SECG_P256K1 and
// ECC_NIST_EDWARDS25519, where the token can do them.
package pkcs11kms
