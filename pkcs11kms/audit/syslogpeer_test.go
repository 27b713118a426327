package audit

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// authority is a certificate authority, and the files of what it has made.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.make(t, "ca", nil)
	return a
}

// make makes a certificate for 127.0.0.1 and its files, NAME.crt and NAME.key.
func (a *authority) make(t testing.TB, name string, more func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames: []string{"syslog.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid, template.ExtKeyUsage = true, true, nil
		parent, signer = template, key
	}
	if more != nil {
		more(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	require.NoError(t, err)
	made, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for path, block := range map[string]*pem.Block{a.file(name + ".crt"): {Type: "CERTIFICATE", Bytes: der},
		a.file(name + ".key"): {Type: "PRIVATE KEY", Bytes: keyDER}} {
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
	}
	return made, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// peer is a receiver of syslog that does not always what it should.
type peer struct {
	t         testing.TB
	authority *authority
	config    *tls.Config
	listener  net.Listener
	tasks     sync.WaitGroup

	mu      sync.Mutex    // guards the rest
	stands  chan struct{} // where it is not nil, nothing is read before it is closed
	resets  int           // how many connections are reset after a few messages
	conns   []net.Conn
	accepts int
	lines   map[uint64]string // what has come, by its number
	heads   map[uint64][]string
}

// newPeer makes one that listens at an address; empty: any.
func newPeer(t testing.TB, a *authority, address string, change func(*tls.Config)) *peer {
	a.make(t, "server", nil)
	pair, err := tls.LoadX509KeyPair(a.file("server.crt"), a.file("server.key"))
	require.NoError(t, err)
	p := &peer{t: t, authority: a, lines: map[uint64]string{}, heads: map[uint64][]string{},
		config: &tls.Config{Certificates: []tls.Certificate{pair}}}
	if change != nil {
		change(p.config)
	}
	if address == "" {
		address = "127.0.0.1:0"
	}
	p.listener, err = net.Listen("tcp", address)
	require.NoError(t, err)
	p.tasks.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// stand has the peer read nothing on connections that come until the result is closed.
func (p *peer) stand() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stands = make(chan struct{})
	return p.stands
}

// reset has it reset so many connections.
func (p *peer) reset(connections int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resets = connections
}

func (p *peer) options() *SyslogOptions {
	return &SyslogOptions{Address: p.listener.Addr().String(), CA: p.authority.file("ca.crt")}
}

func (p *peer) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.tasks.Wait()
}

func (p *peer) accept() {
	for {
		raw, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.conns = append(p.conns, raw)
		p.accepts++
		stands, most := p.stands, 1<<62
		if p.resets > 0 {
			p.resets--
			most = 7
		}
		p.mu.Unlock()
		p.tasks.Go(func() {
			defer raw.Close()
			c := tls.Server(raw, p.config)
			if c.Handshake() != nil {
				return
			}
			if stands != nil {
				<-stands
			}
			p.read(bufio.NewReader(c), most)
			if most == 7 {
				_ = raw.(*net.TCPConn).SetLinger(0)
			}
		})
	}
}

var frameForm = regexp.MustCompile(`^<(\d+)>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) ([!-~]+) pkcs11kms (\d+) ([!-~]{1,32}) ` +
	`\[pkcs11kms@32473 chain="([0-9a-f]{16})" seq="(\d+)" sha256="([0-9a-f]{64})"\] (\{.*\})$`)

// read reads messages until the end of the connection, or so many.
func (p *peer) read(r *bufio.Reader, most int) {
	for range most {
		length, err := r.ReadString(' ')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(length[:len(length)-1])
		message := make([]byte, n)
		if !assert.NoError(p.t, err) {
			return
		}
		if _, err := io.ReadFull(r, message); err != nil {
			return // and lost
		}
		found := frameForm.FindStringSubmatch(string(message))
		if !assert.NotNil(p.t, found, "%s", message) {
			return
		}
		seq, err := strconv.ParseUint(found[7], 10, 64)
		assert.NoError(p.t, err)
		p.mu.Lock()
		p.lines[seq], p.heads[seq] = found[9], found
		p.mu.Unlock()
	}
}

// drained waits until the peer has read what there is: of the connections that have ended, all of it. No more are accepted.
func (p *peer) drained() {
	_ = p.listener.Close()
	p.tasks.Wait()
}

// accepted is how many connections there were.
func (p *peer) accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepts
}

func (p *peer) received() map[uint64]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.lines)
}
