package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pollInterval is how long a read that waits for data may outlive its context.
const pollInterval = 200 * time.Millisecond

// waiter reads a file whose data may be long in coming (a pipe, a terminal) and gives up when the context ends, which a
// plain read would not notice.
type waiter struct {
	ctx  context.Context
	file *os.File
}

// interruptible returns a reader that ends with ctx.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	if f, ok := r.(*os.File); ok {
		return &waiter{ctx, f}
	}
	return r
}

func (r *waiter) Read(p []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(r.file.Fd()), Events: unix.POLLIN}}
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		ready, err := unix.Poll(fds, int(pollInterval.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case ready > 0:
			return r.file.Read(p)
		}
	}
}
