package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// Each limit for slow clients holds without the others: here they are an hour.
func TestEachLimitHoldsByItself(t *testing.T) {
	const soon = 10 * time.Millisecond
	f := newFixture(t, nil)
	var signed string
	for name, tc := range map[string]struct {
		limit  func(*limits)
		send   func(t *testing.T, conn net.Conn)
		answer string
	}{
		"header, nothing sent": {func(l *limits) { l.header = soon }, func(*testing.T, net.Conn) {}, ""},
		"header, half of it": {func(l *limits) { l.header = soon }, func(t *testing.T, conn net.Conn) {
			fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\n")
		}, ""},
		"read": {func(l *limits) { l.read = 10 * soon }, func(t *testing.T, conn net.Conn) {
			fmt.Fprint(conn, signed, "{")
		}, "came too slowly"},
		"idle": {func(l *limits) { l.idle = soon }, func(t *testing.T, conn net.Conn) {
			fmt.Fprint(conn, signed, "{", strings.Repeat(" ", 98), "}")
		}, `"Keys":[]`},
	} {
		t.Run(name, func(t *testing.T) {
			f.limits = limits{header: time.Hour, read: time.Hour, write: time.Hour, idle: time.Hour}
			tc.limit(&f.limits)
			r := f.run(t, Listen{})
			req := f.request(t, r.url, "ListKeys", "{"+strings.Repeat(" ", 98)+"}")
			head, err := httputil.DumpRequestOut(req, false)
			require.NoError(t, err)
			signed = string(head)
			conn := dial(t, r)
			tc.send(t, conn)
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
			got, err := io.ReadAll(conn) // until the server closes
			require.NoError(t, err)
			require.Contains(t, string(got), tc.answer)
		})
	}
}

// held is a real store that holds each commit and each list, once it is armed, until release is closed.
type held struct {
	keystore.Store
	armed            atomic.Bool
	entered, release chan struct{}
}

func (h *held) hold() {
	if !h.armed.Load() {
		return
	}
	h.entered <- struct{}{}
	<-h.release
}

func (h *held) List(ctx context.Context, kind keystore.Kind, region, account, after string, limit int) ([]keystore.Record, error) {
	h.hold()
	return h.Store.List(ctx, kind, region, account, after, limit)
}

func (h *held) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	h.hold()
	return h.Store.Commit(ctx, changes...)
}

// An operation may take as long as it may, however short the times are in which a request must come and its answer go.
func TestSlowOperationIsAnswered(t *testing.T) {
	const read, write = 2 * time.Second, time.Millisecond
	for operation, tc := range map[string]struct {
		callTimeout time.Duration
		body        string
	}{
		"ListKeys":  {time.Hour, "{}"},
		"CreateKey": {2 * time.Second, `{"KeySpec":"HMAC_256","KeyUsage":"GENERATE_VERIFY_MAC"}`}, // and a minute longer
	} {
		t.Run(operation, func(t *testing.T) {
			store := &held{entered: make(chan struct{}, 100), release: make(chan struct{})}
			f := newFixture(t, func(cfg *pkcs11kms.Config, o *Options) {
				store.Store = cfg.Store
				cfg.Store, o.CallTimeout = store, tc.callTimeout
			})
			f.limits = limits{header: time.Hour, read: read, write: write, idle: time.Hour}
			r := f.run(t, Listen{})
			require.Equal(t, 200, f.send(t, f.request(t, r.url, "ListAliases", "{}")).StatusCode, "from here the access key is known")
			store.armed.Store(true)
			began := time.Now()
			status := f.sendLater(f.request(t, r.url, operation, tc.body))
			<-store.entered
			past := read + write
			if operation == "CreateKey" {
				past += tc.callTimeout
			}
			require.Eventually(t, func() bool { return time.Since(began) > past+100*time.Millisecond }, patience, time.Millisecond)
			close(store.release)
			require.Equal(t, 200, <-status)
		})
	}
}

// A client that does not take its answers loses its connection when the time to write one is over.
func TestAnswersThatAreNotTakenAreCutOff(t *testing.T) {
	f := newFixture(t, func(_ *pkcs11kms.Config, o *Options) { o.CallTimeout = 2 * time.Second })
	f.limits = limits{header: time.Hour, read: 2 * time.Second, write: time.Millisecond, idle: time.Hour}
	r := f.run(t, Listen{})
	key := f.mustCreate(t, types.KeySpecHmac256)
	policy := ownerPolicy + strings.Repeat(" ", 29<<10)
	_, err := f.library(t).PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: key.KeyId, Policy: &policy})
	require.NoError(t, err)

	body := `{"KeyId":"` + *key.KeyId + `","PolicyName":"default"}`
	text, err := httputil.DumpRequestOut(f.request(t, r.url, "GetKeyPolicy", body), true)
	require.NoError(t, err)
	conn := dial(t, r)
	written := make(chan error, 1)
	go func() { // until the server closes: 600 MB of answers fit no buffer
		for range 20000 {
			if _, err := conn.Write(text); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	require.Error(t, <-written)
	require.Eventually(t, func() bool {
		return scrape(t, f, r)[`pkcs11kms_connections{listener="api",state="proved"}`] == 0
	}, patience, time.Millisecond)
}

// Whoever has not signed rightly loses the connection with the answer, whoever has keeps it; nothing else decides.
func TestStrangersAreNotKept(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	for i, tc := range []struct {
		change func(*http.Request)
		closed bool
	}{
		{func(*http.Request) {}, false},
		{func(r *http.Request) { r.Header.Set("X-Amz-Target", targetPrefix+"Nothing") }, true},
		{func(r *http.Request) { r.Header.Del("Authorization") }, true},
		{func(r *http.Request) {
			r.Header.Set("Authorization", replaceKeyID(r.Header.Get("Authorization"), f.key.ID))
		}, true},
		{func(r *http.Request) { r.Header.Set("X-Amz-Target", targetPrefix+"DescribeKey") }, true},
	} {
		req := f.request(t, r.url, "ListKeys", "{}")
		tc.change(req)
		text, err := httputil.DumpRequestOut(req, true) // whole, so that nothing of it is left unread
		require.NoError(t, err)
		answers, closed := exchangeRaw(t, "tcp", req.URL.Host, string(text))
		require.Len(t, answers, 1, "case %d", i)
		require.Equal(t, tc.closed, answers[0].Close, "case %d", i)
		require.Equal(t, tc.closed, closed, "case %d", i)
	}
	refused := f.send(t, f.request(t, r.url, "DescribeKey", "{}"))
	require.Equal(t, 400, refused.StatusCode)
	require.False(t, refused.Close, "known, though its request is refused")
}
