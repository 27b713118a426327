//go:build unix

package main

import (
	"os/signal"

	"golang.org/x/sys/unix"
)

// harden keeps the PIN, which cannot be wiped from memory, out of core dumps, and turns two signals into errors: a
// file size limit (SIGXFSZ) must not end the process between two steps of a change, and a closed pipe (SIGPIPE) not
// before the store is closed. Failures are ignored: a process that cannot switch dumps off is no worse than before.
func harden() {
	signal.Ignore(unix.SIGXFSZ, unix.SIGPIPE)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	undumpable()
}
