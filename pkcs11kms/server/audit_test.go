package server

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

// auditLog makes the records of what it is told.
type auditLog struct {
	mu    sync.Mutex // guards the rest
	lines []string
}

func (l *auditLog) Intend(ctx context.Context, e audit.Event) error { return l.Record(ctx, e) }

func (l *auditLog) Record(_ context.Context, e audit.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(audit.AppendRecord(nil, &e, time.Now())))
	return nil
}

func (l *auditLog) take() (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines, l.lines = l.lines, nil
	return lines
}

// A server whose audit log has failed answers nobody, and says so.
func TestReadyzWithoutAuditLog(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer null.Close()
	log, err := audit.Open(filepath.Join(t.TempDir(), "audit"), audit.Options{Stdout: null})
	require.NoError(t, err)
	f := newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) { cfg.Audit = log })
	r := f.run(t, Listen{})
	require.Equal(t, 200, f.send(t, f.request(t, r.url, "ListKeys", "{}")).StatusCode)
	require.Regexp(t, "^ready\n", f.get(t, r.admin+"/readyz").body)
	series := scrape(t, f, r)
	require.EqualValues(t, 3, series["pkcs11kms_audit_records_total"], "with the two of the making of the access key")
	require.Positive(t, series["pkcs11kms_audit_disk_free_ratio"])
	require.EqualValues(t, 3, series[`pkcs11kms_audit_sink_records_total{sink="stdout"}`]+series[`pkcs11kms_audit_sink_queued{sink="stdout"}`])
	require.EqualValues(t, 1, series[`pkcs11kms_audit_sink_up{sink="stdout"}`])
	require.Contains(t, series, `pkcs11kms_audit_sink_dropped_total{sink="stdout"}`)
	require.Zero(t, series[`pkcs11kms_not_ready{subject="audit",reason="audit-failed"}`])

	require.NoError(t, log.Close())
	answer := f.send(t, f.request(t, r.url, "ListKeys", "{}"))
	require.Equal(t, 500, answer.StatusCode)
	require.Contains(t, answer.body, "KMSInternalException")
	require.Eventually(t, func() bool { return f.get(t, r.admin+"/readyz").StatusCode == 503 }, patience, 1e6)
	require.Equal(t, "not ready: audit: audit-failed: the audit log is closed\n", f.get(t, r.admin+"/readyz").body)
	series = scrape(t, f, r)
	require.EqualValues(t, 1, series["pkcs11kms_audit_failures_total"])
	require.Contains(t, f.log.String(), "writing the audit log: the audit log is closed")
}

// Every request that is signed has one record, whatever becomes of it; others have none.
func TestEverySignedRequestIsRecorded(t *testing.T) {
	log, store := &auditLog{}, &faultyStore{}
	f := newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) {
		store.Store = cfg.Store
		cfg.Audit, cfg.Store = log, store
	})
	r := f.run(t, Listen{})
	type told struct {
		ErrorCode, RequestID, EventName, UserAgent, SourceIPAddress string
		UserIdentity                                                struct{ AccessKeyID string }
		RequestParameters                                           map[string]any
	}
	for name, c := range map[string]struct {
		operation, body, code string
		change                func(*http.Request)
		panics, stranger      bool
		parameters            map[string]any
	}{
		"allowed":  {operation: "ListKeys", body: `{"Limit":3}`, parameters: map[string]any{"limit": 3.0}},
		"bad form": {operation: "DescribeKey", body: `{}`, code: "ValidationException"},
		"no JSON":  {operation: "GenerateMac", body: `{"Message":"c2VjcmV0`, code: "SerializationException"},
		"empty enum": {operation: "GenerateMac", body: `{"KeyId":"k","MacAlgorithm":""}`, code: "ValidationException",
			parameters: map[string]any{"keyId": "k"}},
		"not supported": {operation: "ReplicateKey", body: `{"KeyId":"k","ReplicaRegion":"eu-west-1"}`, code: "UnsupportedOperationException",
			parameters: map[string]any{"keyId": "k", "replicaRegion": "eu-west-1", "bypassPolicyLockoutSafetyCheck": false}},
		"not supported, secret": {operation: "CreateCustomKeyStore", body: `{"CustomKeyStoreName":"n","KeyStorePassword":"secret!"}`,
			code: "UnsupportedOperationException", parameters: map[string]any{"customKeyStoreName": "n"}},
		"panic":             {operation: "ListKeys", body: `{}`, code: "KMSInternalException", panics: true},
		"unsigned":          {operation: "ListKeys", body: `{}`, change: func(r *http.Request) { r.Header.Del("Authorization") }, stranger: true},
		"unknown operation": {operation: "Nothing", body: `{}`, stranger: true},
	} {
		log.take()
		var answer reply
		var lines []string
		for again := true; again; again = c.panics && len(lines) == 0 { // where it panics before it is known who asks, there is none
			req := f.request(t, r.url, c.operation, c.body)
			if c.change != nil {
				c.change(req)
			}
			if c.panics {
				require.Equal(t, 200, f.send(t, f.request(t, r.url, c.operation, c.body)).StatusCode)
				log.take()
				store.hook(func() { panic("of a test") })
			}
			answer = f.send(t, req)
			store.hook(nil)
			lines = log.take()
		}
		if c.stranger {
			require.Empty(t, lines, name)
			continue
		}
		require.Len(t, lines, 1, name)
		require.NotContains(t, strings.ToLower(lines[0]), "secret", name)
		require.NotContains(t, lines[0], "c2VjcmV0", name)
		var got told
		require.NoError(t, json.Unmarshal([]byte(lines[0]), &got))
		require.Equal(t, []any{c.code, answer.Header.Get("X-Amzn-Requestid"), c.operation, "127.0.0.1"},
			[]any{got.ErrorCode, got.RequestID, got.EventName, got.SourceIPAddress}, name)
		require.NotEmpty(t, got.UserIdentity.AccessKeyID, name)
		require.NotEmpty(t, got.UserAgent, name)
		require.Equal(t, c.parameters, got.RequestParameters, name)
	}
}
