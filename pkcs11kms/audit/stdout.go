package audit

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// stream writes the lines of records to a file of the process that somebody may read, or not: standard output. It waits for room, and
// writes no more than there is room for, so that its end waits for nobody.
type stream struct {
	fd int // a copy: on those below 3 a reader that has gone would be the end of the process (see os/signal, SIGPIPE)

	first   uint64 // of the bundle that is being written
	written int    // of it
}

const (
	// pipeRoom is what a pipe or socket that poll calls writable takes at once: PIPE_BUF.
	pipeRoom = 4096
	// lookEvery is how often one who waits for room looks whether the end has come, in milliseconds.
	lookEvery = 100
)

func newStream(f *os.File) (*stream, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	return &stream{fd: fd}, nil
}

func (s *stream) name() string { return "stdout" }

func (s *stream) lost() <-chan struct{} { return nil }

func (s *stream) close() (gap, error) { return gap{}, unix.Close(s.fd) }

func (s *stream) send(ctx context.Context, b bundle) error {
	if s.first != b.first {
		s.first, s.written = b.first, 0
	}
	for s.written < len(b.lines) {
		if err := s.waitForRoom(ctx); err != nil {
			return err
		}
		rest := b.lines[s.written:]
		n, err := unix.Write(s.fd, rest[:min(len(rest), pipeRoom)])
		s.written += max(n, 0)
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return err
		}
	}
	return nil
}

func (s *stream) waitForRoom(ctx context.Context) error {
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
	for {
		n, err := unix.Poll(fds, lookEvery)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil // there is room, or an error that the write will tell
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
