package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/loadtest"
)

// benchReport is what bench prints, as JSON by these names.
type benchReport struct {
	Operation      string               `json:"operation"`
	Algorithm      string               `json:"algorithm"`
	MessageBytes   int                  `json:"message_bytes"`
	Key            benchKey             `json:"key"`
	Steps          []benchStep          `json:"steps"`
	Sessions       *benchSessions       `json:"sessions,omitempty"`       // of a state directory
	Recommendation *benchRecommendation `json:"recommendation,omitempty"` // of several concurrencies
	Interrupted    bool                 `json:"interrupted"`

	steps []*loadtest.Step
}

type benchKey struct {
	KeyID        string     `json:"key_id"`
	KeySpec      string     `json:"key_spec"`
	ThrowAway    bool       `json:"throw_away"`
	DeletionDate *time.Time `json:"deletion_date,omitempty"` // of a throw-away key
	Left         bool       `json:"left,omitempty"`          // the throw-away key could not be deleted
}

type benchStep struct {
	Concurrency    int           `json:"concurrency"`
	Complete       bool          `json:"complete"`
	ElapsedSeconds float64       `json:"elapsed_seconds"`
	Operations     int64         `json:"operations"` // that succeeded, like the two below
	PerSecond      float64       `json:"operations_per_second"`
	Latency        benchLatency  `json:"latency_us"`
	Histogram      []benchBucket `json:"histogram"`
	Errors         []benchErrors `json:"errors"`
	Unfinished     int           `json:"unfinished"` // calls that never came back
}

type benchLatency struct {
	Average float64 `json:"average"`
	P50     float64 `json:"p50"`
	P90     float64 `json:"p90"`
	P99     float64 `json:"p99"`
	P999    float64 `json:"p99_9"`
	Max     float64 `json:"max"`
}

type benchBucket struct {
	From  float64 `json:"from_us"`
	Below float64 `json:"below_us"`
	Count int64   `json:"count"`
}

type benchErrors struct {
	Kind    string `json:"kind"`
	Count   int64  `json:"count"`
	Example string `json:"example"`
}

// benchSessions are the sessions of the pool; those used and waiting are the most that were seen at once.
type benchSessions struct {
	Size    int `json:"size"`
	Used    int `json:"used"`
	Waiting int `json:"waiting"`
}

type benchRecommendation struct {
	Concurrency     int     `json:"concurrency"`
	PerSecond       float64 `json:"operations_per_second"`
	BestConcurrency int     `json:"best_concurrency"`
	BestPerSecond   float64 `json:"best_operations_per_second"`
	Rising          bool    `json:"rising"` // it is the largest that was measured: more may bring more
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func newBenchReport(s loadtest.Subject, steps []*loadtest.Step) *benchReport {
	r := &benchReport{Operation: s.Operation, Algorithm: s.Algorithm, MessageBytes: s.MessageBytes,
		Key: benchKey{KeyID: s.KeyID, KeySpec: string(s.Spec)}, Steps: []benchStep{}, steps: steps}
	for _, step := range steps {
		l := step.Latency
		out := benchStep{Concurrency: step.Concurrency, Complete: step.Complete, ElapsedSeconds: step.Elapsed.Seconds(),
			Operations: step.Operations, PerSecond: step.Rate(), Unfinished: step.Unfinished,
			Latency:   benchLatency{micros(l.Average), micros(l.P50), micros(l.P90), micros(l.P99), micros(l.P999), micros(l.Max)},
			Histogram: []benchBucket{}, Errors: []benchErrors{}}
		for _, b := range l.Histogram {
			out.Histogram = append(out.Histogram, benchBucket{micros(b.From), micros(b.To), b.Count})
		}
		for _, e := range step.Errors {
			out.Errors = append(out.Errors, benchErrors(e))
		}
		r.Steps = append(r.Steps, out)
	}
	if best, ok := loadtest.Recommend(steps); ok {
		r.Recommendation = &benchRecommendation{best.Least.Concurrency, best.Least.Rate(), best.Best.Concurrency, best.Best.Rate(), best.Rising}
	}
	return r
}

func (b *bench) print(r *benchReport) error {
	if !b.asJSON {
		return b.app.printf("%s", b.text(r))
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "    ")
	if err := enc.Encode(r); err != nil {
		return err
	}
	return b.app.write(visibleJSON(text.Bytes()))
}

// text is the report for people.
func (b *bench) text(r *benchReport) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s (%s) of %s with an %s key, for %v after %v of warm-up\n", r.Operation, oneLine(r.Algorithm),
		counted(r.MessageBytes, "byte"), oneLine(r.Key.KeySpec), b.plan.Duration, b.plan.WarmUp)
	writeSteps(&out, r.steps)
	if s := shownStep(r); s != nil {
		writeHistogram(&out, s)
	}
	for _, s := range r.steps {
		for _, e := range s.Errors {
			fmt.Fprintf(&out, "%s: %s %s, such as: %s\n", counted(s.Concurrency, "caller"), oneLine(e.Kind),
				counted(int(e.Count), "time"), oneLine(e.Example))
		}
		if s.Unfinished > 0 {
			fmt.Fprintf(&out, "%s: %s never came back\n", counted(s.Concurrency, "caller"), counted(s.Unfinished, "call"))
		}
	}
	if s := r.Sessions; s != nil {
		fmt.Fprintf(&out, "sessions: at most %d of %d were open, %s\n", s.Used, s.Size, waiters(s.Waiting))
	}
	out.WriteString(b.recommendation(r))
	switch {
	case r.Key.DeletionDate != nil:
		fmt.Fprintf(&out, "the throw-away key %s is scheduled for deletion: a server destroys it after %s\n", oneLine(r.Key.KeyID),
			r.Key.DeletionDate.UTC().Format("2006-01-02 15:04 UTC"))
	case r.Key.Left:
		fmt.Fprintf(&out, "the throw-away key %s is left\n", oneLine(r.Key.KeyID))
	}
	return out.String()
}

func waiters(most int) string {
	if most == 0 {
		return "and no call was seen waiting for one"
	}
	return fmt.Sprintf("and %s waited for one at once: the pool has too few, or the token has fewer than the pool", counted(most, "call"))
}

func writeSteps(out *strings.Builder, steps []*loadtest.Step) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "callers\toperations\tper second\taverage\tp50\tp90\tp99\tp99.9\tmax\terrors\t")
	for _, s := range steps {
		l := s.Latency
		fmt.Fprintf(w, "%d\t%d\t%s\t", s.Concurrency, s.Operations, rate(s.Rate()))
		for _, d := range []time.Duration{l.Average, l.P50, l.P90, l.P99, l.P999, l.Max} {
			fmt.Fprintf(w, "%v\t", shortDuration(d))
		}
		fmt.Fprintf(w, "%d\t\n", s.Failed())
	}
	must(w.Flush()) // to a strings.Builder
}

// shownStep is the one whose histogram is shown: the recommended one, or else the last.
func shownStep(r *benchReport) *loadtest.Step {
	var shown *loadtest.Step
	for _, s := range r.steps {
		shown = s
		if r.Recommendation != nil && s.Concurrency == r.Recommendation.Concurrency {
			break
		}
	}
	return shown
}

func writeHistogram(out *strings.Builder, s *loadtest.Step) {
	const width = 50
	var most int64
	for _, b := range s.Latency.Histogram {
		most = max(most, b.Count)
	}
	if most == 0 {
		return
	}
	fmt.Fprintf(out, "latency with %s\n", counted(s.Concurrency, "caller"))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, b := range s.Latency.Histogram {
		bar := int(math.Ceil(float64(b.Count) * width / float64(most)))
		fmt.Fprintf(w, "under %v\t%d\t  %s\n", b.To, b.Count, strings.Repeat("#", bar))
	}
	must(w.Flush())
}

// callsPerProcessor is how many calls at once a token is worth that makes more of Go's processors worth it: a call that is with the token
// keeps one for 20 us or more, until the scheduler takes it away, so that too few hold up those that are to begin.
const callsPerProcessor = 4

// recommendation says what the figures say about the number of sessions.
func (b *bench) recommendation(r *benchReport) string {
	best := r.Recommendation
	if best == nil {
		if len(b.plan.Concurrency) < 2 {
			return "for a recommendation measure several: --concurrency 1,2,4,8,16,32\n"
		}
		return ""
	}
	text := fmt.Sprintf("recommended: sessions: %d in config.yaml", best.Concurrency)
	if r.Sessions == nil {
		text = fmt.Sprintf("recommended: %s at once, and no fewer sessions in the server's config.yaml", counted(best.Concurrency, "caller"))
	}
	if best.Concurrency == best.BestConcurrency {
		text += fmt.Sprintf("; the best rate, %s a second, and the least with %.0f %% of it\n", rate(best.PerSecond), 100*loadtest.Enough)
	} else {
		text += fmt.Sprintf("; the least with %.0f %% of the best rate: %s a second, of the %s with %s\n", 100*loadtest.Enough,
			rate(best.PerSecond), rate(best.BestPerSecond), counted(best.BestConcurrency, "caller"))
	}
	if best.Rising {
		text += "the rate still rose with the most callers that were measured: more may bring more\n"
	}
	if processors := runtime.GOMAXPROCS(0); r.Sessions != nil && best.Concurrency >= callsPerProcessor*processors {
		text += fmt.Sprintf("so many calls are with the token at once that GOMAXPROCS=%d in the environment may bring more\n",
			callsPerProcessor*processors)
	}
	return text
}

// rate writes a number of operations a second with three digits at least.
func rate(perSecond float64) string {
	switch {
	case perSecond >= 100:
		return fmt.Sprintf("%.0f", perSecond)
	case perSecond >= 10:
		return fmt.Sprintf("%.1f", perSecond)
	}
	return fmt.Sprintf("%.2f", perSecond)
}

// shortDuration keeps three digits.
func shortDuration(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
