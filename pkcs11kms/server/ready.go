package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

const (
	readyAge     = time.Second     // how old an answer may be
	readyTimeout = 2 * time.Second // how long store and tokens may take
)

// readiness remembers the last check, so that probes cannot load the token. Safe for concurrent use.
type readiness struct {
	check   func(context.Context) error
	warning func() string // what is to be known although requests are served; nil for nothing
	log     *slog.Logger

	busy chan struct{} // a lock of one place for what follows; held during a check, so that there is one at a time
	at   time.Time
	last error
}

func newReadiness(check func(context.Context) error, log *slog.Logger) *readiness {
	return &readiness{check: check, log: log, busy: make(chan struct{}, 1)}
}

// get returns nil if requests can be served, or why not.
func (r *readiness) get(ctx context.Context) error {
	select {
	case r.busy <- struct{}{}:
		defer func() { <-r.busy }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.at.IsZero() || time.Since(r.at) > readyAge {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
		defer cancel()
		before := r.last
		r.last = r.check(ctx)
		r.at = time.Now()
		switch {
		case r.last != nil:
			r.log.Warn("not ready", "error", r.last)
		case before != nil:
			r.log.Info("ready again")
		}
	}
	return r.last
}

// ServeHTTP answers 200, with a line for what is to be known all the same, or 503 with a line for each reason.
func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if err := r.get(req.Context()); err != nil {
		plain(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
		return
	}
	text := "ready"
	if r.warning != nil {
		if warning := r.warning(); warning != "" {
			text += "\nwarning: " + warning
		}
	}
	plain(w, http.StatusOK, text)
}

// readyCollector tells Prometheus what readyz answers. Every series is there all the time, so that alerts need no absence.
type readyCollector struct {
	ready    *readiness
	subjects []string // "store", "audit" and the regions
}

var (
	readyDesc    = prometheus.NewDesc("pkcs11kms_ready", "1 if requests can be served, as /readyz answers; else 0.", nil, nil)
	notReadyDesc = prometheus.NewDesc("pkcs11kms_not_ready",
		"1 for each reason why requests cannot be served; subject is store, audit or a region.",
		[]string{"subject", "reason"}, nil)
)

// Describe implements prometheus.Collector.
func (c readyCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- readyDesc
	ch <- notReadyDesc
}

// Collect implements prometheus.Collector.
func (c readyCollector) Collect(ch chan<- prometheus.Metric) {
	err := c.ready.get(context.Background()) // bounded by readyTimeout, and by that of a check before it
	ch <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, truth(err == nil))
	health, _ := errors.AsType[*pkcs11kms.HealthError](err)
	for _, subject := range c.subjects {
		for _, reason := range pkcs11kms.HealthReasons {
			found := health != nil && slices.ContainsFunc(health.Problems, func(p pkcs11kms.HealthProblem) bool {
				return p.Subject == subject && p.Reason == reason
			})
			ch <- prometheus.MustNewConstMetric(notReadyDesc, prometheus.GaugeValue, truth(found), subject, reason)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
