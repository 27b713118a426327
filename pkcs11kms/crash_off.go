//go:build !crashtest

package pkcs11kms

// crashAt does nothing in a real build; see crash_on.go.
func crashAt(string) {}
