package httpapi

import (
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tandem/internal/layer2"
	"tandem/internal/refusal"
	"tandem/internal/session"
)

// metrics are the numbers of /metrics, in a registry of this node's own: two nodes fit one process.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec   // by route class, method, status
	seconds  *prometheus.HistogramVec // by route class
	steps    prometheus.Histogram
	commits  *prometheus.CounterVec // by outcome
	refusals *prometheus.CounterVec // by code and kind
	log      *slog.Logger
}

// newMetrics makes the registry. Gauges ask engine and health when they are collected.
func newMetrics(o Options) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		log:      o.Logger,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tandem_http_requests_total", Help: "Requests answered, by class of route, method and status.",
		}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tandem_http_request_seconds", Help: "Time to answer a request, by class of route.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 18),
		}, []string{"route"}),
		steps: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tandem_step_seconds", Help: "Time from a step's arrival at the engine to its endorsed answer.",
			Buckets: prometheus.ExponentialBuckets(0.000125, 2, 16),
		}),
		commits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tandem_commits_total", Help: "Commit requests answered, by outcome: committed, committing, or the refusal's code.",
		}, []string{"outcome"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tandem_refusals_total", Help: "Problem documents sent, by code and kind.",
		}, []string{"code", "kind"}),
	}
	m.registry.MustRegister(m.requests, m.seconds, m.steps, m.commits, m.refusals,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.gauge("tandem_height", "Newest committed block.", func() float64 { return float64(o.Health.Health().Height) })
	m.gauge("tandem_block_lag_seconds", "Age of the newest block by this node's clock.",
		func() float64 { return float64(o.Health.Health().LagMillis) / 1000 })
	m.gauge("tandem_ready", "1 while the node should be given work.", func() float64 {
		if h := o.Health.Health(); h.Live && h.Ready {
			return 1
		}
		return 0
	})
	if o.Engine == nil {
		return m
	}
	m.gauge("tandem_sessions_open", "Open sessions.", func() float64 { return float64(o.Engine.Stats().Open) })
	m.gauge("tandem_sessions_committing", "Sessions that Layer 1 has not decided on.",
		func() float64 { return float64(o.Engine.Stats().Committing) })
	m.counter("tandem_steps_total", "Steps recorded.", func() float64 { return float64(o.Engine.Stats().Steps) })
	m.counter("tandem_conflicts_total", "Sessions that became conflicted.", func() float64 { return float64(o.Engine.Stats().Conflicts) })
	m.counter("tandem_reexecutions_total", "Sessions run again because a block touched what they had read.",
		func() float64 { return float64(o.Engine.Stats().Reexecuted) })
	m.counter("tandem_faults_total", "Nondeterministic handlers found.", func() float64 { return float64(o.Engine.Stats().Faults) })
	return m
}

func (m *metrics) gauge(name, help string, f func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
}

func (m *metrics) counter(name, help string, f func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f))
}

// handler serves the registry.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelWarn)})
}

// served counts a request. Methods are the client's choice; unknown ones count as one.
func (m *metrics) served(class, method string, status int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other"
	}
	m.requests.WithLabelValues(class, method, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(class).Observe(took.Seconds())
}

// stepped records the time of a step.
func (m *metrics) stepped(took time.Duration) { m.steps.Observe(took.Seconds()) }

// refused counts a problem document.
func (m *metrics) refused(e refusal.Entry) {
	m.refusals.WithLabelValues(string(e.Code), string(e.Kind)).Inc()
}

// committed counts a commit request by what became of it.
func (m *metrics) committed(o layer2.Outcome, err error) {
	label := o.Status.String()
	if err != nil {
		label = string(refusal.Internal)
		if r, ok := refusal.As(err); ok {
			label = string(r.Entry().Code)
		}
	} else if o.Status != session.Committed {
		label = session.Committing.String()
	}
	m.commits.WithLabelValues(label).Inc()
}
