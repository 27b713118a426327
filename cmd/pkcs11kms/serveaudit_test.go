package main

import (
	"bufio"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

// describeKeys sends so many requests to a server, one after the other.
func describeKeys(t *testing.T, p *program, d *background, key devAccessKey, times int) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	request := signedRequest(t, d.url, key, "DescribeKey", `{"KeyId":"`+p.key+`"}`)
	for answers := bufio.NewReader(conn); times > 0; times-- {
		_, err := conn.Write(request)
		require.NoError(t, err)
		answer, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, http.StatusOK, answer.StatusCode)
	}
}

// recordsSince are the lines of the audit log from some record on.
func recordsSince(t *testing.T, p *program, from int) (lines []string) {
	t.Helper()
	require.NoError(t, audit.Scan(filepath.Join(p.dir, "kms", "audit"), func(line []byte) error {
		lines = append(lines, string(line))
		return nil
	}))
	return lines[from:]
}

// With audit.stdout a server's standard output has the records, and nothing else; what it has to say itself is on standard error.
func TestServeWithRecordsOnStandardOutput(t *testing.T) {
	p := newProgram(t)
	key := p.accessKey()
	p.configure("audit: {stdout: true}\n")
	d, err := launch(p.command("sh", append([]string{"-c", `exec pkcs11kms serve --log-level error "$@" 2>&1 >records`, "sh"}, anyPort...)...))
	require.NoError(t, err)
	describeKeys(t, p, d, key, 10)
	require.Contains(t, p.must("list-keys"), p.key, "a command's standard output is its own")
	code, err := d.stop(syscall.SIGTERM)
	require.NoError(t, err)
	assert.Zero(t, code)
	assert.Equal(t, "ready "+d.url+" admin "+d.admin+"\n", d.out.String())
	text, err := os.ReadFile(filepath.Join(p.dir, "records"))
	require.NoError(t, err)
	chain := regexp.MustCompile(`"pkcs11kms":\{"chain":"\w+"`).FindString(string(text))
	require.NotEmpty(t, chain)
	var want []string
	for _, line := range recordsSince(t, p, 0) {
		if strings.Contains(line, chain) && (len(want) > 0 || strings.Contains(line, `"DescribeKey"`)) {
			want = append(want, line)
		}
	}
	require.Equal(t, 10, strings.Count(string(text), `"DescribeKey"`))
	require.Equal(t, strings.Join(want, "\n")+"\n", string(text))
}

// requireRsyslog skips a test where rsyslog or its TLS is missing; it fails where that is required.
func requireRsyslog(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("rsyslogd")
	modules, _ := filepath.Glob("/usr/lib/*/rsyslog/lmnsd_gtls.so")
	if err == nil && len(modules) > 0 {
		return path
	}
	missing(t, "rsyslog", "rsyslogd or lmnsd_gtls.so, of rsyslog-gnutls,")
	return ""
}

// startRsyslog starts one that takes messages over TLS, from clients with a certificate, and writes their texts to a file, and what else it
// knows to another. stop ends it, and returns what is in both.
func startRsyslog(t *testing.T, p *program, port int) (stop func() (texts, heads string)) {
	t.Helper()
	path := requireRsyslog(t)
	file := func(name string) string { return filepath.Join(p.dir, name) }
	require.NoError(t, os.WriteFile(file("rsyslog.conf"), []byte(`
global(workDirectory="`+p.dir+`" maxMessageSize="512k" defaultNetstreamDriver="gtls"
  defaultNetstreamDriverCAFile="`+file("log.crt")+`" defaultNetstreamDriverCertFile="`+file("log.crt")+`"
  defaultNetstreamDriverKeyFile="`+file("log.key")+`")
module(load="imtcp" maxFrameSize="524288" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
template(name="text" type="string" string="%msg%\n")
template(name="head" type="string" string="%pri% %app-name% %procid% %msgid% %structured-data%\n")
input(type="imtcp" address="127.0.0.1" port="`+strconv.Itoa(port)+`" ruleset="audit")
ruleset(name="audit") {
  action(type="omfile" file="`+file("texts")+`" template="text")
  action(type="omfile" file="`+file("heads")+`" template="head")
}
`), 0o600))
	cmd := exec.Command(path, "-n", "-f", file("rsyslog.conf"), "-i", file("rsyslog.pid"))
	var said journal
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if t.Failed() {
			t.Log(said.String())
		}
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
		return err == nil && c.Close() == nil
	}, patience, 10*time.Millisecond)
	return func() (texts, heads string) {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait())
		one, err := os.ReadFile(file("texts"))
		require.NoError(t, err)
		other, err := os.ReadFile(file("heads"))
		require.NoError(t, err)
		return string(one), string(other)
	}
}

// rsyslog gets the records of servers and commands by TLS, byte for byte as they are in the files, also those that were made while it was
// not there.
func TestServeSendsRecordsToRsyslog(t *testing.T) {
	requireRsyslog(t)
	p := newProgram(t)
	key := p.accessKey()
	before := len(recordsSince(t, p, 0))
	p.certificate("log", 1)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := free.Addr().(*net.TCPAddr).Port
	require.NoError(t, free.Close())
	p.configure("audit: {syslog: {address: '127.0.0.1:" + strconv.Itoa(port) + "', ca: ../log.crt, cert: ../log.crt, key: ../log.key}}\n")
	d := p.serve(anyPort...)
	describeKeys(t, p, d, key, 50)
	require.Eventually(t, func() bool { return strings.Contains(d.log.String(), "takes no records") }, patience, 10*time.Millisecond)
	require.NotContains(t, d.log.String(), "on this machine only")
	stop := startRsyslog(t, p, port)
	p.must("update-key-description", "--key-id", p.key, "--description", "ein Schlüssel \"x]\" \\ é \U0001F511"+strings.Repeat("<", 8000))
	describeKeys(t, p, d, key, 50)
	code, err := d.stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code)
	want := recordsSince(t, p, before)
	texts := filepath.Join(p.dir, "texts")
	require.Eventually(t, func() bool {
		text, _ := os.ReadFile(texts)
		return strings.Count(string(text), "\n") >= len(want)
	}, patience, 10*time.Millisecond)
	got, heads := stop()
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	assert.ElementsMatch(t, want, lines)
	form := regexp.MustCompile(`^(110) pkcs11kms \d+ (DescribeKey|UpdateKeyDescription|CheckpointStore|SealAuditLog) ` +
		`\[pkcs11kms@32473 chain="[0-9a-f]{16}" seq="\d+" sha256="[0-9a-f]{64}"\]$`)
	for line := range strings.Lines(heads) {
		assert.Regexp(t, form, strings.TrimSuffix(line, "\n"))
	}
	require.Equal(t, len(lines), strings.Count(heads, "\n"))
}
