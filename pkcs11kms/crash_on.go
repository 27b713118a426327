//go:build crashtest

package pkcs11kms

import (
	"os"
	"syscall"
)

// crashAt kills the process, as kill -9 would, at the step that PKCS11KMS_CRASH_AT names. Only the builds that the
// crash tests make have it.
func crashAt(step string) {
	if os.Getenv("PKCS11KMS_CRASH_AT") == step {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}
