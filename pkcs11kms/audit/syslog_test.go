package audit

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// told is what a chain tells to be missing at a sink.
type told struct{ From, To, Records uint64 }

// written are the lines of a log by their numbers, and what its chain tells to be missing at a sink.
func written(t *testing.T, dir, sinkName string) (lines map[uint64]string, gaps []told) {
	lines = map[uint64]string{}
	require.NoError(t, Scan(dir, func(line []byte) error {
		var r struct {
			EventName, EventType string
			AdditionalEventData  struct {
				Sink string
				told
			}
			Pkcs11kms struct{ Seq uint64 }
		}
		require.NoError(t, json.Unmarshal(line, &r))
		lines[r.Pkcs11kms.Seq] = string(line)
		if r.EventName == "AuditRecordsNotDelivered" && r.AdditionalEventData.Sink == sinkName {
			require.Equal(t, "AwsServiceEvent", r.EventType)
			gaps = append(gaps, r.AdditionalEventData.told)
		}
		return nil
	}))
	return lines, gaps
}

func covered(gaps []told, seq uint64) bool {
	return slices.ContainsFunc(gaps, func(g told) bool { return g.From <= seq && seq <= g.To })
}

// requireAccounted holds that each record has come as it was written, or is told to be missing.
func requireAccounted(t *testing.T, dir, sinkName string, got map[uint64]string) (missed int) {
	t.Helper()
	lines, gaps := written(t, dir, sinkName)
	for seq, line := range lines {
		if last := seq == uint64(len(lines)); last && got[seq] == "" && strings.Contains(line, `"AuditRecordsNotDelivered"`) {
			missed++ // which comes after the end of the sink
			continue
		}
		if got[seq] == "" {
			require.True(t, covered(gaps, seq), "record %d has not come, and the chain does not tell it", seq)
			missed++
			continue
		}
		require.Equal(t, line, got[seq])
	}
	require.LessOrEqual(t, len(got), len(lines))
	return missed
}

func recordUses(t *testing.T, l *Log, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.NoError(t, l.Record(t.Context(), use(i)))
	}
}

func sinkStats(l *Log) SinkStats { return l.Stats().Sinks[0] }

// Each record is a message of RFC 5424, whose text is the line in the file.
func TestSyslog(t *testing.T) {
	p := newPeer(t, newAuthority(t), "", nil)
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{Syslog: p.options(), RotateBytes: 20_000})
	recordUses(t, l, 0, 500)
	failed := use(500)
	failed.Err = errors.New("no")
	failed.Origin = Origin{Remote: true, UserAgent: `","errorCode":"x","eventName":"y` + "\ufeffé"}
	require.NoError(t, l.Record(t.Context(), failed))
	tricky := use(501)
	tricky.Origin, tricky.Input = failed.Origin, &input{KeyId: ptr(`,"errorCode":"`)}
	require.NoError(t, l.Record(t.Context(), tricky))
	require.NoError(t, l.Record(t.Context(), intent(502)))
	require.NoError(t, l.Close())
	p.drained()
	require.Zero(t, requireAccounted(t, dir, "syslog", p.received()))
	require.Equal(t, SinkStats{Name: "syslog", Delivered: 503, Up: true}, sinkStats(l))
	host, err := os.Hostname()
	require.NoError(t, err)
	for seq, want := range map[uint64][2]string{1: {"110", "GenerateMac"}, 501: {"108", "GenerateMac"}, 502: {"110", "GenerateMac"},
		503: {"110", "CreateKey"}} {
		head := p.heads[seq]
		var r struct{ EventTime string }
		require.NoError(t, json.Unmarshal([]byte(p.lines[seq]), &r))
		require.Equal(t, []string{want[0], r.EventTime, host, strconv.Itoa(os.Getpid()), want[1], l.place.chain, strconv.FormatUint(seq, 10),
			hexOf(hashOf([]byte(p.lines[seq])))}, head[1:9])
	}
}

// A receiver that accepts and reads nothing makes nobody wait. What there is no room for is counted, and told in the chain, and when it
// reads, it gets what comes.
func TestASyslogReceiverThatHangs(t *testing.T) {
	p := newPeer(t, newAuthority(t), "", nil)
	stands := p.stand()
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{Syslog: p.options(), queued: 200})
	big := use(0)
	big.Input = &input{KeyId: ptr(strings.Repeat("k", 10_000))}
	for i := 0; sinkStats(l).Dropped < 100; i++ { // far more than the sockets take
		require.Less(t, i, 100_000)
		require.NoError(t, l.Record(t.Context(), big))
	}
	require.LessOrEqual(t, sinkStats(l).Queued, 200)
	require.Eventually(t, func() bool { _, gaps := written(t, dir, "syslog"); return len(gaps) > 0 }, time.Minute, 200*time.Millisecond,
		"the chain tells it while it goes on")
	close(stands)
	require.Eventually(t, func() bool { return sinkStats(l).Queued == 0 }, time.Minute, time.Millisecond)
	recordUses(t, l, 1, 100)
	require.NoError(t, l.Close())
	p.drained()
	require.Positive(t, requireAccounted(t, dir, "syslog", p.received()))
	require.Equal(t, l.place.seq, sinkStats(l).Delivered+sinkStats(l).Dropped)
	require.NotEmpty(t, p.received()[l.place.seq])
}

// A receiver that resets connections gets again what it may have lost.
func TestASyslogReceiverThatResets(t *testing.T) {
	p := newPeer(t, newAuthority(t), "", nil)
	p.reset(4)
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{Syslog: p.options()})
	for n := range 5 {
		recordUses(t, l, 20*n, 20*n+20)
		require.Eventually(t, func() bool { return p.accepted() > n }, time.Minute, time.Millisecond)
	}
	require.Eventually(t, func() bool { return len(p.received()) == int(l.lastWritten()) }, time.Minute, time.Millisecond)
	require.NoError(t, l.Close())
	p.drained()
	require.Zero(t, requireAccounted(t, dir, "syslog", p.received()))
}

// A receiver that is not there is a warning, and gets what has waited when it comes. What waits at the end of the log is told.
func TestASyslogReceiverThatIsAbsent(t *testing.T) {
	a := newAuthority(t)
	p := newPeer(t, a, "", nil)
	p.close()
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{Syslog: p.options(), queued: 100})
	require.Eventually(t, func() bool { return !sinkStats(l).Up }, time.Minute, time.Millisecond, "without any record")
	recordUses(t, l, 0, 150)
	require.EqualValues(t, 50, sinkStats(l).Dropped)
	p = newPeer(t, a, p.listener.Addr().String(), nil)
	require.Eventually(t, func() bool { return len(p.received()) > 100 && sinkStats(l).Up }, time.Minute, time.Millisecond,
		"and what tells of the others")
	recordUses(t, l, 150, 200)
	require.Eventually(t, func() bool { return len(p.received()) == int(l.lastWritten())-50 }, time.Minute, time.Millisecond)
	require.Equal(t, 50, requireAccounted(t, dir, "syslog", p.received()))
	p.close()
	require.Eventually(t, func() bool { return !sinkStats(l).Up }, time.Minute, time.Millisecond, "without any record")
	recordUses(t, l, 200, 210)
	require.NoError(t, l.Close())
	require.Equal(t, 61, requireAccounted(t, dir, "syslog", p.received()), "with the record of it")
	mustVerify(t, dir)
}

// Nothing is sent to a peer that has not shown to be the right one, by TLS 1.2 or later; and what a peer that does not take our certificate
// was sent waits for one that does.
func TestSyslogPeersThatAreRefused(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	a.make(t, "client", nil)
	other.make(t, "client", nil)
	for name, c := range map[string]struct {
		peer    func(*tls.Config)
		options func(*SyslogOptions)
		err     string
	}{
		"authority": {options: func(o *SyslogOptions) { o.CA = other.file("ca.crt") }, err: "unknown authority"},
		"name":      {options: func(o *SyslogOptions) { o.ServerName = "other.example" }, err: "not other.example"},
		"version":   {peer: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, err: "protocol version"},
		"no certificate": {peer: func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, a.pool() },
			err: "certificate required"},
		"certificate": {peer: func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, a.pool() },
			options: func(o *SyslogOptions) { o.Cert, o.Key = other.file("client.crt"), other.file("client.key") }, err: "unknown certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, a, "", c.peer)
			o := p.options()
			if c.options != nil {
				c.options(o)
			}
			log := &lockedLog{}
			dir := filepath.Join(t.TempDir(), "audit")
			l := mustOpen(t, dir, Options{Syslog: o, Logger: log.logger()})
			recordUses(t, l, 0, 10)
			require.Eventually(t, func() bool { return log.has(c.err) }, time.Minute, time.Millisecond, log)
			require.NoError(t, l.Close())
			require.Empty(t, p.received())
		})
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer plain.Close()
	got := make(chan []byte, 1)
	go func() {
		c, err := plain.Accept()
		if err == nil {
			begin := make([]byte, 1)
			_, _ = c.Read(begin)
			_ = c.Close()
			got <- begin
		}
	}()
	o := &SyslogOptions{Address: plain.Addr().String(), CA: a.file("ca.crt")}
	l := mustOpen(t, filepath.Join(t.TempDir(), "audit"), Options{Syslog: o})
	recordUses(t, l, 0, 1)
	require.Equal(t, []byte{22}, <-got, "a handshake, and no message")
}

// With the right certificate, name and authority all is well.
func TestSyslogWithAClientCertificate(t *testing.T) {
	a := newAuthority(t)
	a.make(t, "client", nil)
	p := newPeer(t, a, "", func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, a.pool() })
	o := p.options()
	o.Cert, o.Key, o.ServerName, o.Facility = a.file("client.crt"), a.file("client.key"), "syslog.example", 16
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{Syslog: o})
	recordUses(t, l, 0, 10)
	require.NoError(t, l.Close())
	p.drained()
	require.Zero(t, requireAccounted(t, dir, "syslog", p.received()))
	require.Equal(t, "134", p.heads[1][1])
}

// Files that cannot be what they are said to be are an error at once.
func TestSyslogOptionsThatCannotBe(t *testing.T) {
	a := newAuthority(t)
	a.make(t, "client", nil)
	a.make(t, "old", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	dir := filepath.Join(t.TempDir(), "audit")
	for want, o := range map[string]SyslogOptions{
		"no such file":               {Address: "h:1", CA: a.file("none.crt")},
		"no certificate in PEM":      {Address: "h:1", CA: a.file("ca.key")},
		"missing port":               {Address: "h", CA: a.file("ca.crt")},
		"cert and key: open":         {Address: "h:1", Cert: a.file("client.crt")},
		"private key does not":       {Address: "h:1", Cert: a.file("client.crt"), Key: a.file("ca.key")},
		"failed to find certificate": {Address: "h:1", Cert: a.file("client.key"), Key: a.file("client.key")},
	} {
		_, err := Open(dir, Options{Syslog: &o})
		require.ErrorIs(t, err, ErrSink)
		require.ErrorContains(t, err, want)
	}
	require.Empty(t, requestIDs(t, dir))
}
