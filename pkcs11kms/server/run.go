package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// limits are for slow clients.
type limits struct {
	header time.Duration // until a request's headers are there, or the TLS handshake is done
	read   time.Duration // until its body is
	write  time.Duration // from the end of the operation until its answer is sent
	idle   time.Duration // between requests
}

// defaultLimits are what a well-meant request of at most maxBody needs, many times over.
var defaultLimits = limits{header: 5 * time.Second, read: 15 * time.Second, write: 5 * time.Second, idle: 2 * time.Minute}

// defaultAdminLimits are for pages that are asked for without a body, one on a connection.
var defaultAdminLimits = limits{header: 2 * time.Second, read: 2 * time.Second, write: 5 * time.Second, idle: time.Second}

const maxHeader = 64 << 10

// DefaultGrace is how long requests under way may take once the server is told to stop.
const DefaultGrace = 20 * time.Second

// Listen says where a Server is to be reached.
type Listen struct {
	// API is host:port of the API. Port 0 lets the system choose.
	API string
	// Admin is host:port, or unix:PATH, of what Server.Admin answers. Empty: nowhere.
	Admin string
	// Certificate makes both speak TLS. Required unless both are on loopback or a unix socket.
	Certificate *Certificate
	// AllowPlaintext lets the API be reached from other machines without TLS: behind a proxy that speaks it.
	AllowPlaintext bool
	// Grace bounds the end. Default: DefaultGrace.
	Grace time.Duration
	// LoopbackOnly refuses every address that other machines can reach, with or without TLS.
	LoopbackOnly bool
	// ListenAPI opens the address of API in place of net.Listen, such as to share it with other processes.
	ListenAPI func(ctx context.Context, network, address string) (net.Listener, error)
	// Drain is how long, at the end, connections to the API may go on before those that are idle are closed. Each answer is the last one of
	// its connection then, so that whoever is sending learns of the end by an answer. It ends as soon as there are no connections, and
	// counts apart from Grace. Default: none.
	Drain time.Duration
	// Ready is called once, when connections are accepted, with the addresses that were chosen (admin may be nil).
	Ready func(api, admin net.Addr)
}

// ErrAdmin says that it was the admin listener that could not be opened.
var ErrAdmin = errors.New("the admin listener")

// ErrPlaintext says that an address which other machines can reach would be served without TLS.
var ErrPlaintext = errors.New("refusing to listen without TLS on an address that other machines can reach")

// Run serves until ctx ends. Then it accepts nothing more, finishes what is under way within Grace, and returns nil.
func (s *Server) Run(ctx context.Context, l Listen) error {
	if err := l.check(); err != nil {
		return err
	}
	api, admin, err := l.open(ctx)
	if err != nil {
		return err
	}
	allotted := s.allotted()
	servers := []*http.Server{s.httpServer(s, l.Certificate, s.limits)}
	gates := []*gate{newGate(api, allotted.api, s.newGateNotes(listenerAPI))}
	var adminAddr net.Addr
	if admin != nil {
		adminAddr = admin.Addr()
		certificate := l.Certificate
		if IsLocal(l.Admin) {
			certificate = nil
		}
		server := s.httpServer(s.Admin(), certificate, s.adminLimits)
		server.SetKeepAlivesEnabled(false) // whoever asks has proved nothing, so no place is kept for another question
		servers = append(servers, server)
		gates = append(gates, newGate(admin, allotted.admin, s.newGateNotes(listenerAdmin)))
	}
	failed := make(chan error, len(servers))
	for i, server := range servers {
		s.gates.add(gates[i])
		defer s.gates.remove(gates[i])
		go func() { failed <- serve(server, gates[i]) }()
	}
	if l.Ready != nil {
		l.Ready(api.Addr(), adminAddr)
	}
	running := len(servers)
	select {
	case <-ctx.Done():
		err = gates[0].drain(l.Drain)
	case err = <-failed:
		running--
	}
	return errors.Join(err, stop(ctx, l, servers, running, failed))
}

// open opens both listeners, that of the API last: where others share its port, connections come as soon as it is there.
func (l Listen) open(ctx context.Context) (api, admin net.Listener, err error) {
	if l.Admin != "" {
		if admin, err = l.listen(l.Admin, false, listen); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrAdmin, err)
		}
	}
	open := listen
	if l.ListenAPI != nil {
		open = func(address string) (net.Listener, error) { return l.ListenAPI(ctx, network(address), address) }
	}
	api, err = l.listen(l.API, l.AllowPlaintext, open)
	switch {
	case err != nil && admin != nil:
		err = errors.Join(err, admin.Close())
	case err == nil && l.Drain > 0:
		api = leaveNone(api)
	}
	return api, admin, err
}

// check refuses what would put secrets on the wire, or the admin pages on the network.
func (l Listen) check() error {
	if l.Certificate == nil && !IsLocal(l.API) && !l.AllowPlaintext {
		return fmt.Errorf("%w: %s", ErrPlaintext, l.API)
	}
	if l.Certificate == nil && l.Admin != "" && !IsLocal(l.Admin) {
		return fmt.Errorf("%w: %s", ErrPlaintext, l.Admin)
	}
	return nil
}

const unixPrefix = "unix:"

// IsLocal tells by its form whether only this machine can reach an address of a Listen: HOST:PORT or unix:PATH. Run looks
// again at what was bound.
func IsLocal(address string) bool {
	if strings.HasPrefix(address, unixPrefix) {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// listen opens an address, and looks at what came of it: a name such as localhost is whatever the hosts file says.
func (l Listen) listen(address string, plaintext bool, open func(address string) (net.Listener, error)) (net.Listener, error) {
	listener, err := open(address)
	if err != nil {
		return nil, err
	}
	tcp, ok := listener.Addr().(*net.TCPAddr)
	if ok && !tcp.IP.IsLoopback() && (l.LoopbackOnly || l.Certificate == nil && !plaintext) {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrPlaintext, listener.Addr()), listener.Close())
	}
	return listener, nil
}

// network keeps an IPv4 address to IPv4: Go listens on 0.0.0.0 for IPv6 as well.
func network(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err == nil && net.ParseIP(host).To4() != nil {
		return "tcp4"
	}
	return "tcp"
}

func listen(address string) (net.Listener, error) {
	path, unix := strings.CutPrefix(address, unixPrefix)
	if !unix {
		return net.Listen(network(address), address)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// On Linux the file gets the mode of the socket, so that there is no moment at which others could connect.
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) })
		return errors.Join(controlErr, err)
	}}
	listener, err := private.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// removeStale removes the socket that a killed server left behind, which would be in the way for good. A socket that
// anybody listens on, and a file that is no socket, stay.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return nil
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("listening on %q: another process does: %w", path, syscall.EADDRINUSE), conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("looking whether another process listens on %q: %w", path, err)
}

func (s *Server) httpServer(handler http.Handler, certificate *Certificate, limits limits) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ConnContext:       withConnection,
		ReadHeaderTimeout: limits.header,
		ReadTimeout:       limits.read,
		WriteTimeout:      limits.read + s.timeout + limits.write, // net/http counts from the end of the headers
		IdleTimeout:       limits.idle,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(s.transport, "", 0),

		DisableGeneralOptionsHandler: true, // it answers past log and metrics
	}
	if certificate != nil {
		server.TLSConfig = certificate.config()
	}
	return server
}

func serve(server *http.Server, listener net.Listener) error {
	if server.TLSConfig != nil {
		listener = tls.NewListener(listener, server.TLSConfig)
	}
	err := server.Serve(listener)
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// stop ends the servers, of which so many run.
func stop(ctx context.Context, l Listen, servers []*http.Server, running int, failed <-chan error) (err error) {
	grace := l.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	for _, server := range servers {
		if e := server.Shutdown(ending); e != nil {
			err = errors.Join(err, fmt.Errorf("requests under way were cut off after %v: %w", grace, e), server.Close())
		}
	}
	for range running {
		err = errors.Join(err, <-failed)
	}
	return err
}
