// Package softhsm provisions SoftHSM tokens: for tests that want a real PKCS#11 token each, and for programs that bring
// up a token without asking anybody. It talks to the module itself and runs no other program.
//
// # Use
//
// In a test one line gives a token with a random label and PIN, which is gone when the test ends:
//
//	tok := softhsm.NewToken(t)
//	ctx, err := crypto11.Configure(&crypto11.Config{Path: tok.Module, TokenLabel: tok.Label, Pin: tok.PIN()})
//
// Software that takes a PKCS#11 URI gets tok.URI(tok.PINFile), and a child process sees the token when tok.Env() is added
// to its environment. Without SoftHSM the test is skipped and says how to install it; PKCS11KMS_REQUIRE=softhsm makes that
// a failure.
//
// A program makes a configuration in a directory of its own and tokens in it:
//
//	config, err := softhsm.Setup("/var/lib/example/hsm")
//	tok, err := config.CreateToken("example", softhsm.RandomPIN(), pin)
//
// At each later start it calls [Setup] again, which mends the configuration when the directory has moved, and
// [Config.Use] before the module is initialised. The script install.sh beside this package installs SoftHSM with the
// system's package manager when it is missing.
//
// # One configuration per process
//
// SoftHSM reads the file named by SOFTHSM2_CONF when it is initialised and not again, and one process has one instance of
// the module however often it is loaded. A second configuration would be ignored without a word: tokens would turn up in
// the first one, and tokens of the second would be missing. [Config.Use] and [Config.CreateToken] refuse that with
// [ErrOtherConfiguration]. Several tokens in one configuration are no problem, and that is how [NewToken] keeps tests
// apart.
//
// # Who initialises and who finalizes
//
// Whoever called C_Initialize with success calls C_Finalize, nobody else. [Config.CreateToken] keeps to that: it finalizes
// the module only when it had to initialise it, so that a library that insists on doing it itself (crypto11) works
// afterwards, and an application that has the module open keeps its sessions and sees the new token at once, in a slot
// that may be another than the free one it was made in. Select tokens by label or serial, never by slot.
//
// # Cleaning up
//
// NewToken's tokens are in one temporary directory per process. A token's files are removed when its test ends, and the
// directory with the last of them; only a test process that is killed leaves it behind. Directories made by [Setup] are
// the caller's.
//
// # Killed processes
//
// SoftHSM writes a token's file anew at each login, and a process that is killed at the wrong moment leaves it empty: with
// it all keys of the token are lost. [Config.CreateToken] therefore keeps a copy of that file in tokens.saved beside the
// token directory, and [Setup] puts it back when it finds the file empty for half a second. What comes back is the token as
// it was when it was made: with all its objects, which are in files of their own, and with the PINs of that time. A token
// that another program has initialised anew since cannot come back in this way, and one that this package did not make has
// no copy. Where nothing is destroyed Setup pays one stat for each token. All this is for SoftHSM's files only: a hardware
// token writes nothing of the kind when one logs in.
//
// # Limits
//
// A lock keeps the calls of this package apart, in one process and among processes that share a configuration. It does not
// reach C_Initialize and C_Finalize of other code: while CreateToken or NewToken runs, nothing else in the process may
// begin or end its use of the module. Parallel tests whose code does that take a lock of their own around both.
//
// SoftHSM protects keys with the PIN and the file system only. It is no HSM. A configuration's path may not hold '#' or
// '=' (SoftHSM's reader cuts there), and the token directory must be on a file system with flock. Windows is not
// supported.
package softhsm
