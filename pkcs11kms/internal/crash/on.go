//go:build crashtest

// Package crash ends a process at a named step, so that tests find what a kill leaves behind.
package crash

import (
	"os"
	"syscall"
)

// At kills the process, as kill -9 would, at the step that PKCS11KMS_CRASH_AT names. Only the builds that the
// crash tests make have it.
func At(step string) {
	if os.Getenv("PKCS11KMS_CRASH_AT") == step {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}
