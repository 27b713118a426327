package server

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// metrics are what Prometheus is told. The labels come from fixed tables, so that no client can make new series.
type metrics struct {
	registry *prometheus.Registry
	ready    *readiness
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
}

func newMetrics(bridge *pkcs11kms.Bridge, o Options) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		ready:    newReadiness(bridge.Health, o.Logger),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pkcs11kms_requests_total",
			Help: "Requests by operation and result: the code of the error, or OK.",
		}, []string{"operation", "result"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pkcs11kms_request_duration_seconds",
			Help:    "Time from the request's headers to its answer.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"operation"}),
	}
	m.ready.warning = bridge.Warning
	m.registry.MustRegister(m.requests, m.latency, bridgeCollector{bridge, &keyCounts{counts: map[string]int{}}},
		readyCollector{m.ready, append([]string{"store", "audit"}, bridge.Regions()...)},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if o.LogDropped != nil {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "pkcs11kms_log_lines_dropped_total",
			Help: "Lines of the log that were dropped, since it was not read fast enough.",
		}, func() float64 { return float64(o.LogDropped()) }))
	}
	return m
}

func (m *metrics) observe(op, code string, took time.Duration) {
	if code == "" {
		code = "OK"
	}
	m.requests.WithLabelValues(op, code).Inc()
	m.latency.WithLabelValues(op).Observe(took.Seconds())
}

// bridgeCollector reads the Bridge's own counts when it is asked.
type bridgeCollector struct {
	bridge *pkcs11kms.Bridge
	keys   *keyCounts
}

// keyCounts remembers how many keys there were: counting reads every record. Safe for concurrent use.
type keyCounts struct {
	mu     sync.Mutex // guards the rest; held while counting, so that there is one count at a time
	at     time.Time
	counts map[string]int
}

const countAge = 10 * time.Second // how old a count may be

func (k *keyCounts) get(bridge *pkcs11kms.Bridge) map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.at.IsZero() && time.Since(k.at) < countAge {
		return k.counts
	}
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	k.at, k.counts = time.Now(), map[string]int{}
	for _, region := range bridge.Regions() {
		if n, err := bridge.CountKeys(ctx, region); err == nil { // the other figures are worth having when the store is not
			k.counts[region] = n
		}
	}
	return k.counts
}

var (
	sessionsDesc = prometheus.NewDesc("pkcs11kms_sessions", "Sessions with the token by state: in_use, waiting, lost, open, size.",
		[]string{"region", "state"}, nil)
	macTimeDesc = prometheus.NewDesc("pkcs11kms_token_mac_seconds", "How long a MAC has taken the token lately; 0 while none was made.",
		[]string{"region"}, nil)
	copiesDesc      = prometheus.NewDesc("pkcs11kms_session_copies", "Keys that are used by a session copy.", []string{"region"}, nil)
	tokenErrorsDesc = prometheus.NewDesc("pkcs11kms_token_errors_total", "Failures of tokens by class: busy, gone, missing, hung, other.",
		[]string{"class"}, nil)
	tokenUpDesc       = prometheus.NewDesc("pkcs11kms_token_up", "1 while the region's token is there, else 0.", []string{"region"}, nil)
	tokenLossesDesc   = prometheus.NewDesc("pkcs11kms_token_losses_total", "Times that the region's token was lost.", []string{"region"}, nil)
	reinitializedDesc = prometheus.NewDesc("pkcs11kms_token_module_initialized_total",
		"Times that the PKCS#11 module was initialised anew to bring the region's token back.", []string{"region"}, nil)

	auditRecordsDesc  = prometheus.NewDesc("pkcs11kms_audit_records_total", "Records of the audit log.", nil, nil)
	auditFailuresDesc = prometheus.NewDesc("pkcs11kms_audit_failures_total", "Records that the audit log could not take.", nil, nil)
	auditWritesDesc   = prometheus.NewDesc("pkcs11kms_audit_writes_total", "Writes of the audit log: records share them.", nil, nil)
	auditSyncsDesc    = prometheus.NewDesc("pkcs11kms_audit_syncs_total", "Times that the audit log was brought to the disk.", nil, nil)
	auditFreeDesc     = prometheus.NewDesc("pkcs11kms_audit_disk_free_ratio", "How much of the audit log's disk is left, 0 to 1.", nil, nil)
	sinkRecordsDesc   = prometheus.NewDesc("pkcs11kms_audit_sink_records_total", "Records that a sink of the audit log was handed.",
		[]string{"sink"}, nil)
	sinkDroppedDesc = prometheus.NewDesc("pkcs11kms_audit_sink_dropped_total",
		"Records that a sink of the audit log did not get, since it was too slow or away for too long.", []string{"sink"}, nil)
	sinkQueuedDesc = prometheus.NewDesc("pkcs11kms_audit_sink_queued", "Records that wait for a sink of the audit log.", []string{"sink"}, nil)
	sinkUpDesc     = prometheus.NewDesc("pkcs11kms_audit_sink_up", "1 while a sink of the audit log takes records, else 0.",
		[]string{"sink"}, nil)
	auditSealsDesc = prometheus.NewDesc("pkcs11kms_audit_seals_total", "Seals of the audit log that were made.", nil, nil)
	unsealableDesc = prometheus.NewDesc("pkcs11kms_audit_seal_failures_total", "Seals of the audit log that could not be made.", nil, nil)
	unsealedDesc   = prometheus.NewDesc("pkcs11kms_audit_unsealed_seconds",
		"For how long there has been a record of this process that no seal covers; 0: there is none.", nil, nil)
	cachedDesc    = prometheus.NewDesc("pkcs11kms_cached_records", "Records of the store that are kept decoded, at most 65,536.", nil, nil)
	displacedDesc = prometheus.NewDesc("pkcs11kms_cached_records_displaced_total", "Records that made room for others.", nil, nil)
	keysDesc      = prometheus.NewDesc("pkcs11kms_keys", "KMS keys in the store.", []string{"region"}, nil)
)

func (c bridgeCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- sessionsDesc
	ch <- copiesDesc
	ch <- macTimeDesc
	ch <- tokenErrorsDesc
	ch <- tokenUpDesc
	ch <- tokenLossesDesc
	ch <- reinitializedDesc
	ch <- cachedDesc
	ch <- displacedDesc
	ch <- keysDesc
	ch <- auditRecordsDesc
	ch <- auditFailuresDesc
	ch <- auditWritesDesc
	ch <- auditSyncsDesc
	ch <- auditFreeDesc
	ch <- sinkRecordsDesc
	ch <- sinkDroppedDesc
	ch <- sinkQueuedDesc
	ch <- sinkUpDesc
	ch <- auditSealsDesc
	ch <- unsealableDesc
	ch <- unsealedDesc
}

// countTimeout bounds what a scrape may cost the store.
const countTimeout = 2 * time.Second

func (c bridgeCollector) Collect(ch chan<- prometheus.Metric) {
	stats := c.bridge.Stats()
	for region, s := range stats.Sessions {
		ch <- prometheus.MustNewConstMetric(copiesDesc, prometheus.GaugeValue, float64(s.Copies), region)
		for state, n := range map[string]int{"size": s.Size, "open": s.Open, "in_use": s.InUse, "waiting": s.Waiting, "lost": s.Lost} {
			ch <- prometheus.MustNewConstMetric(sessionsDesc, prometheus.GaugeValue, float64(n), region, state)
		}
	}
	for region, took := range stats.MACTimes {
		ch <- prometheus.MustNewConstMetric(macTimeDesc, prometheus.GaugeValue, took.Seconds(), region)
	}
	for region, s := range stats.Tokens {
		ch <- prometheus.MustNewConstMetric(tokenUpDesc, prometheus.GaugeValue, truth(s.Up), region)
		ch <- prometheus.MustNewConstMetric(tokenLossesDesc, prometheus.CounterValue, float64(s.Losses), region)
		ch <- prometheus.MustNewConstMetric(reinitializedDesc, prometheus.CounterValue, float64(s.Reinitialized), region)
	}
	for class, n := range stats.TokenErrors {
		ch <- prometheus.MustNewConstMetric(tokenErrorsDesc, prometheus.CounterValue, float64(n), class)
	}
	if log := stats.Audit; log != nil {
		ch <- prometheus.MustNewConstMetric(auditRecordsDesc, prometheus.CounterValue, float64(log.Records))
		ch <- prometheus.MustNewConstMetric(auditFailuresDesc, prometheus.CounterValue, float64(log.Failures))
		ch <- prometheus.MustNewConstMetric(auditWritesDesc, prometheus.CounterValue, float64(log.Writes))
		ch <- prometheus.MustNewConstMetric(auditSyncsDesc, prometheus.CounterValue, float64(log.Syncs))
		ch <- prometheus.MustNewConstMetric(auditFreeDesc, prometheus.GaugeValue, log.FreePercent/100)
		for _, s := range log.Sinks {
			ch <- prometheus.MustNewConstMetric(sinkRecordsDesc, prometheus.CounterValue, float64(s.Delivered), s.Name)
			ch <- prometheus.MustNewConstMetric(sinkDroppedDesc, prometheus.CounterValue, float64(s.Dropped), s.Name)
			ch <- prometheus.MustNewConstMetric(sinkQueuedDesc, prometheus.GaugeValue, float64(s.Queued), s.Name)
			ch <- prometheus.MustNewConstMetric(sinkUpDesc, prometheus.GaugeValue, truth(s.Up), s.Name)
		}
		ch <- prometheus.MustNewConstMetric(auditSealsDesc, prometheus.CounterValue, float64(log.Seals))
		ch <- prometheus.MustNewConstMetric(unsealableDesc, prometheus.CounterValue, float64(log.SealFailures))
		ch <- prometheus.MustNewConstMetric(unsealedDesc, prometheus.GaugeValue, log.Unsealed.Seconds())
	}
	ch <- prometheus.MustNewConstMetric(cachedDesc, prometheus.GaugeValue, float64(stats.Cache.Records))
	ch <- prometheus.MustNewConstMetric(displacedDesc, prometheus.CounterValue, float64(stats.Cache.Displaced))
	for region, n := range c.keys.get(c.bridge) {
		ch <- prometheus.MustNewConstMetric(keysDesc, prometheus.GaugeValue, float64(n), region)
	}
}
