package server

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Admin answers what the operator's tools ask, apart from the API: /healthz (the process answers), /readyz (store and
// tokens answer) and /metrics (Prometheus). It tells nothing of keys but their number, and asks for no credentials: keep
// it off the network. Requests that a web page can have caused are refused.
func (s *Server) Admin() http.Handler {
	ready := newReadiness(s.bridge.Health, s.log)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready.get(r.Context()); err != nil {
			plain(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
			return
		}
		plain(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	return guardAdmin(mux)
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // whether the asker still listens is its own business
}

const (
	readyAge      = time.Second     // how old an answer may be
	readyPatience = 2 * time.Second // how long store and tokens may take
)

// readiness remembers the last check, so that probes cannot load the token. Safe for concurrent use.
type readiness struct {
	check func(context.Context) error
	log   *slog.Logger

	busy chan struct{} // a lock of one place for what follows; held during a check, so that there is one at a time
	at   time.Time
	last error
}

func newReadiness(check func(context.Context) error, log *slog.Logger) *readiness {
	return &readiness{check: check, log: log, busy: make(chan struct{}, 1)}
}

func (r *readiness) get(ctx context.Context) error {
	select {
	case r.busy <- struct{}{}:
		defer func() { <-r.busy }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.at.IsZero() || time.Since(r.at) > readyAge {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyPatience)
		defer cancel()
		r.last = r.check(ctx)
		r.at = time.Now()
		if r.last != nil {
			r.log.Warn("not ready", "error", r.last)
		}
	}
	return r.last
}
