package softhsm

import (
	"fmt"
	"os"
	"syscall"
)

// lockDir keeps other processes of this package from provisioning in dir, so that two of them never make one label
// twice. The lock ends with the process that holds it.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("locking token directory: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		_ = f.Close() // read only: nothing can be lost
		return nil, fmt.Errorf("locking token directory %q: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}
