package statedir

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ListenShared listens on HOST:PORT, where other servers of the same state directory may listen at the same time by the same function:
// the system shares new connections out among them (SO_REUSEPORT). With port 0 it chooses one, which others can be given. The network is
// tcp or tcp4. Where anybody else listens it is refused, servers of other state directories among them; what it cannot keep out is another
// program of the same user that joins later by the same option.
func ListenShared(ctx context.Context, dir, network, address string) (net.Listener, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := checkStateDir(dir); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(foreignWait); ; {
		listener, err := listenOnce(ctx, dir, network, address)
		var other *foreignError
		if !errors.As(err, &other) {
			return listener, err
		}
		if time.Now().After(deadline) {
			return nil, other.setup()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(shareLook):
		}
	}
}

// foreignError says that somebody listens who is not known to share. It may be one of ours that is just being killed.
type foreignError struct {
	at   netip.AddrPort
	ours bool // servers of this state directory listen there, too
}

func (e *foreignError) Error() string {
	return fmt.Sprintf("listening on %s: another process does", e.at)
}

func (e *foreignError) setup() error {
	advice := "it is a server without --reuse-port, one of another state directory, or another program:\n" +
		"stop it, or choose another address by --listen"
	if e.ours {
		advice = "servers of this state directory share the port, and it takes connections away from them, to whatever keys it has:\n" +
			"find it (ss -ltnp) and stop it"
	}
	return setupError(fmt.Sprintf("a process that does not share it with this state directory listens on %s", e.at), advice,
		syscall.EADDRINUSE)
}

// listenOnce is one attempt, with other starts kept out.
func listenOnce(ctx context.Context, dir, network, address string) (_ net.Listener, err error) {
	s, err := openShares(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	listener, err := listenTCP(ctx, network, address, false)
	if errors.Is(err, syscall.EADDRINUSE) {
		return s.join(ctx, network, address)
	}
	if err != nil {
		return nil, err
	}
	// Nobody else listens here. From now on others may.
	if err := control(listener, allowOthers); err != nil {
		return nil, errors.Join(fmt.Errorf("sharing the port: %w", err), listener.Close())
	}
	return s.shared(listener)
}

// join listens where servers of this state directory do, and nobody else.
func (s *shares) join(ctx context.Context, network, address string) (net.Listener, error) {
	resolved, err := net.ResolveTCPAddr(network, address)
	if err != nil {
		return nil, err
	}
	at := unmapped(resolved)
	if network == "tcp" && at.Addr() == netip.IPv4Unspecified() {
		at = netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())
	}
	if _, err := s.check(at, 0); err != nil {
		return nil, err
	}
	listener, err := listenTCP(ctx, network, address, true)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &foreignError{at: at}
	}
	if err != nil {
		return nil, err
	}
	inode, err := inodeOf(listener)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	seen, err := s.check(at, inode)
	if err == nil && !seen {
		err = setupError("cannot see who listens on the port in "+procNet, "mount /proc, or start one server without --reuse-port", nil)
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return s.shared(listener)
}

// check refuses an address where anybody listens but servers of this state directory and the socket of a number, and tells whether it has
// seen that one. Without such a socket at least one of those servers must be there; with it they may have ended meanwhile.
func (s *shares) check(at netip.AddrPort, own uint64) (seen bool, err error) {
	living, err := s.living()
	if err != nil {
		return false, err
	}
	listening, err := listeners()
	if err != nil {
		return false, err
	}
	ours, foreign := false, false
	for inode, address := range listening {
		switch _, known := living[inode]; {
		case !overlap(address, at):
		case inode == own:
			seen = true
		case known:
			ours = true
		default:
			foreign = true
		}
	}
	if foreign || own == 0 && !ours {
		return seen, &foreignError{at, ours}
	}
	return seen, nil
}

// shared makes the file that tells others of this socket.
func (s *shares) shared(listener *net.TCPListener) (net.Listener, error) {
	inode, err := inodeOf(listener)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	file, err := s.add(unmapped(listener.Addr().(*net.TCPAddr)), inode)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return &sharedListener{TCPListener: listener, share: file}, nil
}

// sharedListener is a socket with its file.
type sharedListener struct {
	*net.TCPListener
	share  *share
	closed sync.Once
}

// Close closes the socket first: while it is open, its file tells whose it is.
func (l *sharedListener) Close() error {
	err := l.TCPListener.Close()
	l.closed.Do(func() { err = errors.Join(err, l.share.end()) })
	return err
}

func allowOthers(fd uintptr) error {
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// listenTCP listens, with the option from the start where others are there already.
func listenTCP(ctx context.Context, network, address string, others bool) (*net.TCPListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if !others {
			return nil
		}
		controlErr := c.Control(func(fd uintptr) { err = allowOthers(fd) })
		return errors.Join(controlErr, err)
	}}
	config.SetMultipathTCP(false) // one socket is one line in procNet
	listener, err := config.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

func control(listener *net.TCPListener, do func(fd uintptr) error) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) { err = do(fd) })
	return errors.Join(controlErr, err)
}

// inodeOf returns the number by which the system knows a socket, one of its kind in all of the running system.
func inodeOf(listener *net.TCPListener) (uint64, error) {
	var st unix.Stat_t
	err := control(listener, func(fd uintptr) error { return unix.Fstat(int(fd), &st) })
	return st.Ino, err
}

// procNet is where the system tells of the sockets of this process's network, see proc(5).
const procNet = "/proc/self/net/tcp"

// listeners returns all sockets that listen, by their numbers.
func listeners() (map[uint64]netip.AddrPort, error) {
	found := map[uint64]netip.AddrPort{}
	for _, name := range []string{procNet, procNet + "6"} {
		file, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // there is no IPv6, or no /proc: then the own socket will not be seen
		}
		if err != nil {
			return nil, fmt.Errorf("looking who listens: %w", err)
		}
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			const address, state, inode, listens = 1, 3, 9, "0A"
			fields := strings.Fields(lines.Text())
			if len(fields) <= inode || fields[state] != listens {
				continue
			}
			at, err := parseProcAddress(fields[address])
			number, numberErr := strconv.ParseUint(fields[inode], 10, 64)
			if err = errors.Join(err, numberErr); err != nil {
				return nil, errors.Join(fmt.Errorf("reading %s: %w", name, err), file.Close())
			}
			found[number] = at
		}
		if err := errors.Join(lines.Err(), file.Close()); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	return found, nil
}

// parseProcAddress reads an address as procNet has it: words of 32 bits, each as the machine has it in its memory, and the port.
func parseProcAddress(text string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("no address: %q", text)
	}
	for word := range len(raw) / 4 {
		binary.NativeEndian.PutUint32(raw[4*word:], binary.BigEndian.Uint32(raw[4*word:]))
	}
	ip, ok := netip.AddrFromSlice(raw)
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil || !ok {
		return netip.AddrPort{}, fmt.Errorf("no address: %q", text)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(number)), nil
}
