package loadtest

// Enough is the share of the best rate for which a concurrency is recommended: what is above it costs sessions and latency, and brings
// next to nothing.
const Enough = 0.95

// Recommendation is what the steps of several concurrencies show.
type Recommendation struct {
	Least  *Step // of the least concurrency that reaches Enough of the best rate
	Best   *Step // of the best rate
	Rising bool  // the most callers had to be there for it: more may bring more
}

// Recommend compares the complete steps of several concurrencies; ok is false if there are less than two, or nothing succeeded.
func Recommend(steps []*Step) (r Recommendation, ok bool) {
	var complete []*Step
	for _, s := range steps {
		if s.Complete {
			complete = append(complete, s)
		}
	}
	for _, s := range complete {
		if r.Best == nil || s.Rate() > r.Best.Rate() {
			r.Best = s
		}
	}
	if len(complete) < 2 || r.Best.Operations == 0 {
		return Recommendation{}, false
	}
	r.Rising = true
	for _, s := range complete {
		if s.Rate() >= Enough*r.Best.Rate() && (r.Least == nil || s.Concurrency < r.Least.Concurrency) {
			r.Least = s
		}
	}
	for _, s := range complete {
		r.Rising = r.Rising && s.Concurrency <= r.Least.Concurrency
	}
	return r, true
}
