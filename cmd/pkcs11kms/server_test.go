package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// journal collects what a process writes while others read it.
type journal struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// background is a server that runs in a process of its own. Between launch and stop it has one goroutine, which reads its
// standard output and ends with the process. For the use of one goroutine.
type background struct {
	cmd        *exec.Cmd
	url, admin string
	out, log   *journal
	drained    chan struct{}
	deadline   *time.Timer // ends the process when nothing else does
}

// launch starts a server and waits until it is ready. A server that ends before is an error, with its exit code.
func launch(cmd *exec.Cmd) (*background, error) {
	d := &background{cmd: cmd, out: &journal{}, log: &journal{}, drained: make(chan struct{})}
	cmd.Stderr = d.log
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d.deadline = time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }) // fails when the process was faster
	lines := bufio.NewReader(io.TeeReader(pipe, d.out))
	first, err := lines.ReadString('\n')
	go func() {
		defer close(d.drained)
		_, _ = io.Copy(io.Discard, lines)
	}()
	words := strings.Fields(first)
	if err != nil || len(words) < 2 || words[0] != "ready" {
		code, err := d.stop(syscall.SIGTERM)
		return nil, errors.Join(fmt.Errorf("the server ended with %d before it was ready: %s", code, d.log), err)
	}
	d.url = words[1]
	if len(words) == 4 {
		d.admin = words[3]
	}
	return d, nil
}

// stop sends a signal and waits for the end. The exit code is -1 when the process did not exit by itself.
func (d *background) stop(sig os.Signal) (code int, err error) {
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return -1, err
	}
	<-d.drained
	err = d.cmd.Wait()
	d.deadline.Stop()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return d.cmd.ProcessState.ExitCode(), err
}

// makeCertificate writes a self-signed certificate for this machine, and its key, over the files that may be there.
func makeCertificate(certFile, keyFile string, serial int64) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: "pkcs11kms test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true,

		BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: certificate},
		keyFile:  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// anyPort makes the addresses of a command line ones that no other test can have.
var anyPort = []string{"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}

// serve starts a server on the program's state directory; the test ends it.
func (p *program) serve(args ...string) *background {
	p.t.Helper()
	d, err := launch(p.command("pkcs11kms", append([]string{"serve"}, args...)...))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if d.cmd.ProcessState == nil { // the test has not stopped it
			if _, err := d.stop(os.Kill); err != nil {
				p.t.Error(err)
			}
		}
	})
	return d
}

// configure adds to config.yaml.
func (p *program) configure(text string) {
	p.t.Helper()
	file, err := os.OpenFile(filepath.Join(p.dir, "kms", "config.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteString(text)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// accessKey makes an access key of the root.
func (p *program) accessKey() devAccessKey {
	p.t.Helper()
	id, secret, _ := strings.Cut(strings.TrimSpace(p.must("iam", "create-access-key",
		"--query", "AccessKey.[AccessKeyId,SecretAccessKey]", "--output", "text")), "\t")
	return devAccessKey{id, secret}
}

// certificate makes a certificate in the program's directory and returns the arguments that name it.
func (p *program) certificate(name string, serial int64) (args []string) {
	p.t.Helper()
	cert, key := filepath.Join(p.dir, name+".crt"), filepath.Join(p.dir, name+".key")
	if err := makeCertificate(cert, key, serial); err != nil {
		p.t.Fatal(err)
	}
	return []string{"--tls-cert", cert, "--tls-key", key}
}
