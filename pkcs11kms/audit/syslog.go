package audit

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SyslogOptions say where records go by syslog: messages of RFC 5424 over TLS, counted in octets (RFC 5425). There is no such thing
// without TLS.
type SyslogOptions struct {
	Address    string // HOST:PORT
	CA         string // the file of the authorities that may vouch for the peer, PEM; default: those of the system
	Cert, Key  string // the files of a client's certificate and its private key, PEM; both or none. They are read again for each connection
	ServerName string // the name in the peer's certificate; default: the host of the address
	Facility   int    // 1 to 23; default 13, the audit log
}

// DefaultFacility is "log audit" in RFC 5424.
const DefaultFacility = 13

// The severities of records: a call that was answered with an error, and everything else.
const (
	severityWarning       = 4
	severityInformational = 6
)

// sdID names our structured data. What is registered has no @; 32473 is the number that is set aside for documents (RFC 5612), since this
// project has none of its own.
const sdID = "pkcs11kms@32473"

// Of a syslog connection.
const (
	connectWithin = 10 * time.Second
	writeWithin   = 10 * time.Second
	// ackedWithin is how long the peer's system may leave unacknowledged what was sent, in milliseconds.
	ackedWithin = 30_000
	// A receiver acknowledges nothing. So what was sent last on a connection that is lost is sent again on the next: this much of it,
	// which is more than may wait in our system (sendBuffer, twice) and in that of a receiver on Linux (6 MiB, net.ipv4.tcp_rmem); and not
	// what was sent so long before. Nothing is forgotten on a connection that is younger than provenAfter: since TLS 1.3 a peer that
	// does not want us says so after the handshake. When a connection has ended so young, the next one waits for that before it is used.
	windowBytes = 8 << 20
	sendBuffer  = 512 << 10
	windowTime  = time.Minute
	provenAfter = time.Second
)

// sentFrames are the messages of a bundle that was sent.
type sentFrames struct {
	at     time.Time
	bundle // its lines are the messages
}

// syslogSink is a connection to a receiver of syslog, which is made again when it is lost.
type syslogSink struct {
	o      SyslogOptions
	host   string // the name of this machine
	proc   string
	gone   chan struct{} // has one when a connection has ended
	reader sync.WaitGroup

	conn    *tls.Conn
	began   time.Time    // conn
	window  []sentFrames // the last ones on conn, or on the one before
	held    int          // the bytes of window
	again   bool         // window is to be sent first
	doubted bool         // the connection before ended before it was proven

	mu  sync.Mutex // guards err
	err error      // why the connection has ended
}

// newSyslogSink looks at the files. The connection is made by the first send.
func newSyslogSink(o SyslogOptions) (*syslogSink, error) {
	if o.Facility == 0 {
		o.Facility = DefaultFacility
	}
	s := &syslogSink{o: o, host: headerField(hostname(), 255), proc: strconv.Itoa(os.Getpid()), gone: make(chan struct{}, 1)}
	if _, err := s.tls(); err != nil {
		return nil, err
	}
	s.gone <- struct{}{} // so that it is known soon whether there is a peer
	return s, nil
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// headerField is a text as the header of a message has it: printable ASCII without blanks, or - for none.
func headerField(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, text)
	if text == "" {
		return "-"
	}
	return text[:min(len(text), most)]
}

func (s *syslogSink) name() string { return "syslog" }

func (s *syslogSink) lost() <-chan struct{} { return s.gone }

// send sends a bundle, on a new connection where there is none, after what the one before may have lost.
func (s *syslogSink) send(ctx context.Context, b bundle) error {
	if err := s.failure(); s.conn != nil && err != nil {
		s.drop()
		return err
	}
	if s.conn == nil {
		if err := s.connect(ctx); err != nil {
			return err
		}
	}
	if s.again {
		for i := range s.window {
			if err := s.write(ctx, s.window[i].lines); err != nil {
				return err
			}
			s.window[i].at = time.Now()
		}
		s.again = false
	}
	if b.records == 0 {
		return nil
	}
	frames := make([]byte, 0, len(b.lines)+b.records*256)
	seq := b.first
	for line := range bytes.Lines(b.lines) {
		frames = s.appendFrame(frames, seq, bytes.TrimSuffix(line, []byte{'\n'}))
		seq++
	}
	if err := s.forget(ctx, len(frames)); err != nil {
		return err
	}
	if err := s.write(ctx, frames); err != nil {
		return err
	}
	b.lines = frames
	s.window = append(s.window, sentFrames{time.Now(), b})
	s.held += len(frames)
	return nil
}

// forget makes room in the window for more, and forgets what is old.
func (s *syslogSink) forget(ctx context.Context, more int) error {
	if s.held+more > windowBytes {
		if err := s.prove(ctx); err != nil {
			return err
		}
	}
	for len(s.window) > 0 && (s.held+more > windowBytes || time.Since(s.window[0].at) > windowTime) {
		s.held -= len(s.window[0].lines)
		s.window = s.window[1:]
	}
	return nil
}

// prove waits until the connection is provenAfter old.
func (s *syslogSink) prove(ctx context.Context) error {
	timer := time.NewTimer(provenAfter - time.Since(s.began))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.gone:
		err := s.failure()
		s.drop()
		return err
	}
}

// appendFrame appends the message of a record, after the number of its bytes. The text of the message has no byte order mark, which JSON
// forbids (RFC 8259, 8.1): for the RFC it is then a text of which no encoding is said.
func (s *syslogSink) appendFrame(b []byte, seq uint64, line []byte) []byte {
	head, _, _ := bytes.Cut(line, []byte(`,"requestParameters":`)) // what clients choose comes after it, or is escaped
	severity := severityInformational
	if bytes.Contains(head, []byte(`,"errorCode":"`)) {
		severity = severityWarning
	}
	place, _ := linkOf(line)
	sum := hashOf(line)
	m := make([]byte, 0, 256)
	m = strconv.AppendInt(append(m, '<'), int64(s.o.Facility*8+severity), 10)
	for _, field := range []string{">1", headerField(member(head, "eventTime"), 32), s.host, "pkcs11kms", s.proc,
		headerField(member(head, "eventName"), 32)} {
		m = append(append(m, field...), ' ')
	}
	m = append(m, "["+sdID+` chain="`+place.chain+`" seq="`...)
	m = strconv.AppendUint(m, seq, 10)
	m = append(m, `" sha256="`...)
	m = append(hex.AppendEncode(m, sum[:]), `"] `...)
	b = strconv.AppendInt(b, int64(len(m)+len(line)), 10)
	return append(append(append(b, ' '), m...), line...)
}

// member is the text of a member of a record, which has no escapes.
func member(head []byte, name string) string {
	_, rest, _ := bytes.Cut(head, []byte(`,"`+name+`":"`))
	text, _, _ := bytes.Cut(rest, []byte{'"'})
	return string(text)
}

// write writes all of it in time, or ends the connection.
func (s *syslogSink) write(ctx context.Context, text []byte) error {
	conn := s.conn
	defer context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })()
	for len(text) > 0 {
		_ = conn.SetWriteDeadline(time.Now().Add(writeWithin)) // what is wrong with it, the write tells
		n, err := conn.Write(text[:min(len(text), bundleBytes)])
		if err != nil {
			if cause := s.failure(); cause != nil {
				err = cause
			}
			s.drop()
			return err
		}
		text = text[n:]
	}
	return nil
}

func (s *syslogSink) connect(ctx context.Context) error {
	config, err := s.tls()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	d := tls.Dialer{Config: config, NetDialer: &net.Dialer{Control: bound,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 10 * time.Second, Count: 3}}}
	conn, err := d.DialContext(ctx, "tcp", s.o.Address)
	if err != nil {
		return err
	}
	s.conn, s.began, s.again = conn.(*tls.Conn), time.Now(), true
	s.fail(nil)
	select {
	case <-s.gone:
	default:
	}
	s.reader.Go(func() { s.read(conn) })
	if s.doubted {
		return s.prove(ctx)
	}
	return nil
}

// bound has the system end a connection whose peer no longer acknowledges what was sent, and keep little that was not acknowledged.
func bound(_, _ string, c syscall.RawConn) error {
	var err error
	if controlErr := c.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ackedWithin),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer))
	}); controlErr != nil {
		return controlErr
	}
	return err
}

// read waits for the end of the connection: a receiver sends nothing.
func (s *syslogSink) read(conn net.Conn) {
	_, err := conn.Read(make([]byte, 1))
	if err == nil {
		err = fmt.Errorf("%s sends something, which no receiver of syslog does", s.o.Address)
	}
	s.fail(fmt.Errorf("the connection was ended: %w", err))
	select {
	case s.gone <- struct{}{}:
	default:
	}
}

func (s *syslogSink) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// failure is why the connection has ended, or nil.
func (s *syslogSink) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// drop ends the connection, and waits for its reader.
func (s *syslogSink) drop() {
	if s.conn == nil {
		return
	}
	_ = s.conn.NetConn().Close() // nobody is left to be told that it ends
	s.reader.Wait()
	s.conn, s.doubted = nil, time.Since(s.began) < provenAfter
}

// close tells the peer that nothing more comes, and gives it a second to end the connection, too: one that has not taken our certificate
// says so then.
func (s *syslogSink) close() (unsure gap, err error) {
	defer s.drop()
	if s.conn != nil {
		_ = s.conn.NetConn().SetDeadline(time.Now().Add(time.Second))
		err = s.conn.CloseWrite()
		s.reader.Wait()
		if failure := s.failure(); !errors.Is(failure, io.EOF) && !errors.Is(failure, os.ErrDeadlineExceeded) {
			err = failure
		}
	}
	if s.conn != nil && !s.again && err == nil {
		return gap{}, nil
	}
	for _, sent := range s.window {
		n := uint64(sent.records)
		unsure = unsure.add(gap{from: sent.first, to: sent.first + n - 1, records: n})
	}
	return unsure, err
}
