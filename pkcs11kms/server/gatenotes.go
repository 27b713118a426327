package server

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Why a gate closed or refused a connection: the values of the metric's label.
const (
	closedUnproved = "unproved" // nothing was admitted on it, and others came
	closedIdle     = "idle"     // it was admitted and idle, and others were admitted
	refusedBusy    = "busy"     // all places of admitted connections had requests under way
)

// gateNotes tells log and metrics what a gate does to connections.
type gateNotes struct {
	listener string
	log      *slog.Logger
	closed   *prometheus.CounterVec
	lines    *rate.Limiter
	kept     atomic.Int64 // connections closed without a line since the last line
}

// Names of listeners in log and metrics.
const (
	listenerAPI   = "api"
	listenerAdmin = "admin"
)

func (s *Server) newGateNotes(listener string) *gateNotes {
	return &gateNotes{listener: listener, log: s.log, closed: s.gates.closed, lines: rate.NewLimiter(1, 1)}
}

// note counts what was done to a connection, and logs one in a second.
func (n *gateNotes) note(reason string, c *connection) {
	n.closed.WithLabelValues(n.listener, reason).Inc()
	if !n.lines.Allow() {
		n.kept.Add(1)
		return
	}
	n.log.LogAttrs(context.Background(), slog.LevelWarn, "too many connections: closed one", slog.String("listener", n.listener),
		slog.String("reason", reason), slog.String("remote", c.RemoteAddr().String()), slog.Int64("suppressed", n.kept.Swap(0)))
}

// gates are those of all runs of a Server. It is a prometheus.Collector; safe for concurrent use.
type gates struct {
	closed *prometheus.CounterVec

	mu   sync.Mutex // guards open
	open map[*gate]bool
}

func newGates() *gates {
	return &gates{open: map[*gate]bool{}, closed: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pkcs11kms_connections_closed_total",
		Help: "Connections closed or refused for lack of places: unproved, idle, or busy when every place had a request under way.",
	}, []string{"listener", "reason"})}
}

func (g *gates) add(one *gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open[one] = true
}

func (g *gates) remove(one *gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, one)
}

var connectionsDesc = prometheus.NewDesc("pkcs11kms_connections",
	"Open connections: unproved until a request on it is admitted, and proved after.", []string{"listener", "state"}, nil)

// Describe is Collect's.
func (g *gates) Describe(ch chan<- *prometheus.Desc) {
	ch <- connectionsDesc
	g.closed.Describe(ch)
}

// Collect counts the connections of both listeners.
func (g *gates) Collect(ch chan<- prometheus.Metric) {
	g.closed.Collect(ch)
	g.mu.Lock()
	defer g.mu.Unlock()
	sums := map[string]gateLimits{listenerAPI: {}, listenerAdmin: {}}
	for one := range g.open {
		sum, count := sums[one.notes.listener], one.count()
		sums[one.notes.listener] = gateLimits{sum.waiting + count.waiting, sum.admitted + count.admitted}
	}
	for listener, sum := range sums {
		for state, n := range map[string]int{"unproved": sum.waiting, "proved": sum.admitted} {
			ch <- prometheus.MustNewConstMetric(connectionsDesc, prometheus.GaugeValue, float64(n), listener, state)
		}
	}
}
