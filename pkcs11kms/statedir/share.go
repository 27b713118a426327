package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sharesDir is the directory, in the state directory, of what servers that share a port by SO_REUSEPORT know of each other.
//
// With that option the system gives a new connection to any of the sockets on a port, and any process of the same user may add one: also a
// server of another state directory, whose keys are others. So each server that shares has a file there, named by its address and the
// number (inode) of its socket, and holds an flock on it for as long as the socket is open. Whoever starts
//
//   - listens without the option at first. Where that succeeds nobody else listens there, and the port is opened to others only then;
//   - or else looks who listens. When all of them have a locked file in this directory, it listens with the option, and looks again.
//
// One start at a time does this: it holds an flock on startFile. Locks go with their process, and a file without its lock is removed.
const (
	sharesDir = "shared-ports"
	startFile = "start"
)

// How long a start waits for others: for another start, and for the sockets of a server that is just being killed.
const (
	startWait   = 10 * time.Second
	foreignWait = time.Second
	shareLook   = 20 * time.Millisecond
)

// shares is the directory, locked against other starts. It is used by one goroutine.
type shares struct {
	dir   string
	start *os.File
}

// openShares makes the directory where there is none, and waits for its lock.
func openShares(ctx context.Context, dir string) (*shares, error) {
	path := filepath.Join(dir, sharesDir)
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, sharesError(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, sharesError(err)
	}
	if err := checkPrivate(path, info); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(path, startFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, sharesError(err)
	}
	for deadline := time.Now().Add(startWait); ; {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return &shares{dir: path, start: file}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			return nil, errors.Join(setupError("cannot lock "+file.Name(), "see which process holds the lock: lsof "+shellWord(file.Name()), err),
				file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), file.Close())
		case <-time.After(shareLook):
		}
	}
}

func sharesError(err error) error {
	return setupError("cannot note in the state directory who shares the port",
		"servers share a port only where the state directory can be written: mend that, or start one server without --reuse-port", err)
}

// close lets others start.
func (s *shares) close() error { return s.start.Close() }

// share is the file of a server that shares a port.
type share struct {
	file *os.File // locked
	path string
}

// shareName names the file of a socket.
func shareName(address netip.AddrPort, inode uint64) string {
	return fmt.Sprintf("%s_%d", address, inode)
}

// add makes the file of this process's socket.
func (s *shares) add(address netip.AddrPort, inode uint64) (*share, error) {
	path := filepath.Join(s.dir, shareName(address, inode))
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // nobody else can have a socket of this number
		return nil, sharesError(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, sharesError(err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(sharesError(err), file.Close(), os.Remove(path))
	}
	return &share{file, path}, nil
}

// end removes the file. One whose directory was moved away meanwhile has gone with it.
func (s *share) end() error {
	err := os.Remove(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.file.Close())
}

// living returns the sockets of the servers that share ports, and their addresses, and removes what others have left that were killed.
func (s *shares) living() (map[uint64]netip.AddrPort, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, sharesError(err)
	}
	found := map[uint64]netip.AddrPort{}
	for _, entry := range entries {
		text, number, ok := strings.Cut(entry.Name(), "_")
		address, err := netip.ParseAddrPort(text)
		inode, numberErr := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil || numberErr != nil {
			continue
		}
		path := filepath.Join(s.dir, entry.Name())
		alive, err := isLocked(path)
		if err != nil {
			return nil, sharesError(err)
		}
		if alive {
			found[inode] = address
		} else if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, sharesError(err)
		}
	}
	return found, nil
}

// isLocked tells whether a living process holds the lock of a file.
func isLocked(path string) (bool, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close() // was only locked
	err = unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// SharesPort tells whether servers of a state directory share the port of an address by ListenShared.
func SharesPort(ctx context.Context, dir, address string) (bool, error) {
	if _, err := os.Lstat(filepath.Join(dir, sharesDir)); err != nil {
		return false, nil // nobody ever did
	}
	resolved, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return false, err
	}
	s, err := openShares(ctx, dir)
	if err != nil {
		return false, err
	}
	found, err := s.living()
	for _, other := range found {
		if overlap(other, unmapped(resolved)) {
			return true, s.close()
		}
	}
	return false, errors.Join(err, s.close())
}

// overlap tells whether a connection to one address may come to a socket of the other one.
func overlap(a, b netip.AddrPort) bool {
	if a.Port() != b.Port() {
		return false
	}
	x, y := a.Addr().WithZone(""), b.Addr().WithZone("")
	any6 := x == netip.IPv6Unspecified() || y == netip.IPv6Unspecified() // as a rule it takes IPv4 as well
	return x == y || any6 || x.Is4() == y.Is4() && (x.IsUnspecified() || y.IsUnspecified())
}

// unmapped is the address of a listener: no host means every address of IPv6, and with it of IPv4.
func unmapped(address *net.TCPAddr) netip.AddrPort {
	ap := address.AddrPort()
	if !ap.Addr().IsValid() {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), ap.Port())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
