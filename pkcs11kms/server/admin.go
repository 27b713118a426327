package server

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Admin answers what the operator's tools ask, apart from the API: /readyz and /healthz (requests can be served, by
// Bridge.Health, at most a second old), /livez (the process answers) and /metrics (Prometheus). It tells nothing of keys
// but their number, and asks for no credentials: keep it off the network.
// Requests that a web page can have caused are refused.
func (s *Server) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.Handle("GET /healthz", s.metrics.ready)
	mux.Handle("GET /readyz", s.metrics.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	return guardAdmin(mux)
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // whether the asker still listens is its own business
}
