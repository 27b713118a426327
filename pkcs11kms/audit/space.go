package audit

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// The free part of the disk, in percent, from which on it is told, and below which nothing is recorded and so nothing is done.
const (
	spaceLow      = 20
	spaceVeryLow  = 10
	spaceRefusing = 2
)

// ErrFull says that there is no room for records: nothing is done until there is.
var ErrFull = errors.New("there is no room for the audit log")

// fullError is ErrFull with what to do about it.
type fullError struct{ problem, advice string }

func (e *fullError) Error() string { return ErrFull.Error() + ": " + e.problem }

// Unwrap returns ErrFull.
func (e *fullError) Unwrap() error { return ErrFull }

// Hint says what to do.
func (e *fullError) Hint() string { return e.advice }

const makeRoom = "make room on the disk of the audit log: nothing is done without a record of it"

// freePercent is how much of a file system is left to this user, as df shows it.
func freePercent(dir string) (percent float64, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("looking at the free space of %q: %w", dir, err)
	}
	used := st.Blocks - st.Bfree
	if used+st.Bavail == 0 {
		return 100, math.MaxInt64, nil // a file system that does not count
	}
	free = int64(min(st.Bavail, math.MaxInt64/uint64(st.Bsize)) * uint64(st.Bsize))
	return 100 * float64(st.Bavail) / float64(used+st.Bavail), free, nil
}

// fileLimit is how long a file of this process may become.
func fileLimit() int64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) != nil || limit.Cur > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(limit.Cur)
}

// allocate has the file system keep so many bytes for a file beyond from, without making it longer. It reports false where the file
// system cannot do that.
func allocate(f *os.File, from, to int64) (can bool, err error) {
	for {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, from, to-from)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return false, nil
	}
	return true, err
}
