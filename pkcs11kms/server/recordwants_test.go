package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// TestRequestsThatAreLogged: what is left out is not lost for the operator where it is a fault of the server's own.
func TestRequestsThatAreLogged(t *testing.T) {
	type line struct{ operation, error string }
	served, refused := line{"ListKeys", ""}, line{"DescribeKey", "ValidationException"}
	stranger, failed := line{"ListKeys", "MissingAuthenticationTokenException"}, line{"ListAliases", "KMSInternalException"}
	panicked := line{"ListKeys", "KMSInternalException"}
	for log, want := range map[RequestLog][]line{
		"":       {served, refused, stranger, failed, panicked},
		"all":    {served, refused, stranger, failed, panicked},
		"errors": {refused, stranger, failed, panicked},
		"off":    {failed, panicked},
	} {
		t.Run(fmt.Sprintf("%q", log), func(t *testing.T) {
			store := &faultyStore{}
			f := newFixture(t, func(cfg *pkcs11kms.Config, o *Options) {
				store.Store = cfg.Store
				cfg.Store, o.LogRequests = store, log
			})
			r := f.run(t, Listen{})
			send := func(operation string, status int, change func(*http.Request)) {
				req := f.request(t, r.url, operation, "{}")
				if change != nil {
					change(req)
				}
				require.Equal(t, status, f.send(t, req).StatusCode)
			}
			send("ListKeys", 200, nil)
			send("DescribeKey", 400, nil)
			send("ListKeys", 400, func(r *http.Request) { r.Header.Del("Authorization") })
			store.fail(errors.New("a fault of the disk"))
			send("ListAliases", 500, nil)
			store.hook(func() { panic("of a test") })
			send("ListKeys", 500, nil)
			store.hook(nil)
			store.fail(nil)
			require.EqualValues(t, 1, scrape(t, f, r)[`pkcs11kms_requests_total{operation="ListKeys",result="OK"}`], "counted all the same")
			f.client.CloseIdleConnections()
			r.stop()
			<-r.ended // and with it every line is written
			var got []line
			for _, l := range f.lines(t, len(want)) {
				got = append(got, line{l.Operation, l.Error})
				if l.Status == 500 {
					require.Equal(t, "ERROR", l.Level)
					require.NotEmpty(t, l.Cause)
				}
			}
			require.ElementsMatch(t, want, got) // a line may come after the answer, and so after another's
			require.Contains(t, f.log.String(), `"msg":"panic"`)
		})
	}
}

// TestUnwantedLinesCostNothing: nothing is made for a line that is not written, be it by the kind of the request or by its level.
func TestUnwantedLinesCostNothing(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	x := &exchange{id: "id", op: "DescribeKey", accessKey: "AKIA", caller: "arn:aws:iam::111122223333:root"}
	stranger := &exchange{id: "id", op: "DescribeKey", code: "c"}
	auth := &sigv4.Error{Code: "c", Message: "m"}
	for name, tc := range map[string]struct {
		log   RequestLog
		level slog.Level
		x     *exchange
		err   error
	}{
		"off":                 {LogOff, slog.LevelDebug, x, nil},
		"off, an error":       {LogOff, slog.LevelDebug, x, errTooLarge},
		"errors, none":        {LogErrors, slog.LevelDebug, x, nil},
		"below the level":     {LogAll, slog.LevelWarn, x, nil},
		"off, of a stranger":  {LogOff, slog.LevelDebug, stranger, auth},
		"stranger, the level": {LogErrors, slog.LevelError, stranger, auth},
	} {
		var out bytes.Buffer
		s := &Server{requests: tc.log, unauthenticated: newLimiter(),
			log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: tc.level}))}
		status := http.StatusOK
		if tc.err != nil {
			status = http.StatusBadRequest
		}
		require.Zero(t, testing.AllocsPerRun(100, func() { s.record(r, tc.x, status, time.Millisecond, tc.err) }), name)
		require.Zero(t, s.suppressed.Load(), "%s: what nobody wants was not kept back", name)
		s.record(r, x, http.StatusInternalServerError, time.Millisecond, errTimeout)
		require.Contains(t, out.String(), "level=ERROR msg=request", name)
	}
}

// standing is a slog.Handler that stands still at each line about a request, or a panic, until it is let go.
type standing struct {
	slog.Handler
	gate chan struct{}
	held sync.WaitGroup // is done when as many lines are held as were expected
}

func (h *standing) Handle(ctx context.Context, line slog.Record) error {
	if line.Message == "request" || line.Message == "panic" {
		h.held.Done()
		<-h.gate
	}
	return h.Handler.Handle(ctx, line)
}

// TestNoAnswerWaitsForTheLog: whatever it is that is answered. Only what follows on the same connection waits, for a Logger that stands
// still; the command's own never does.
func TestNoAnswerWaitsForTheLog(t *testing.T) {
	for name, status := range map[string]int{"served": 200, "refused": 400, "stranger": 400, "panic": 500} {
		t.Run(name, func(t *testing.T) {
			store, log := &faultyStore{}, &standing{gate: make(chan struct{})}
			f := newFixture(t, func(cfg *pkcs11kms.Config, o *Options) {
				store.Store, log.Handler = cfg.Store, o.Logger.Handler()
				cfg.Store, o.Logger = store, slog.New(log)
			})
			r := f.run(t, Listen{})
			request := func() *http.Request {
				operation := "ListKeys"
				if name == "refused" {
					operation = "DescribeKey"
				}
				req := f.request(t, r.url, operation, "{}")
				if name == "stranger" {
					req.Header.Del("Authorization")
				}
				return req
			}
			if name == "panic" {
				store.hook(func() { panic("of a test") })
			}
			const clients = 5
			log.held.Add(clients)
			for range clients { // each on a connection of its own, which the lines hold: none is done
				req := request()
				own := &http.Client{Transport: &http.Transport{}, Timeout: patience}
				defer own.CloseIdleConnections()
				res, err := own.Do(req)
				require.NoError(t, err)
				require.Equal(t, status, res.StatusCode)
				_, err = io.ReadAll(res.Body)
				require.NoError(t, err)
				require.NoError(t, res.Body.Close())
			}
			store.hook(nil)
			log.held.Wait()
			require.Empty(t, f.log.requests(), "not one line is written yet")
			if name == "panic" {
				log.held.Add(clients) // the lines of the requests themselves
			}
			close(log.gate)
			f.lines(t, clients)
		})
	}
}
