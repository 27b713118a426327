package loadtest_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/loadtest"
)

// The tests of this file run in a bubble whose clock goes on only while everybody waits: what is measured is exact.

var errToken = errors.New("the token is upset")

// work is what takes a time that depends on the number of the call, which counts from 1.
func work(call func(ctx context.Context, n int64) error) loadtest.Work {
	var calls atomic.Int64
	return loadtest.Work{
		Call: func(ctx context.Context) ([]byte, error) {
			n := calls.Add(1)
			return fmt.Append(nil, n), call(ctx, n)
		},
		Check:    func([]byte) error { return nil },
		Describe: func(err error) (kind, text string) { return err.Error(), err.Error() },
	}
}

func taking(d time.Duration) func(context.Context, int64) error {
	return func(context.Context, int64) error {
		time.Sleep(d)
		return nil
	}
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		steps := loadtest.Run(t.Context(), loadtest.Plan{Concurrency: []int{1, 3}, Duration: time.Second}, work(taking(9*time.Millisecond)))
		require.Len(t, steps, 2)
		for i, callers := range []int64{1, 3} {
			s := steps[i]
			assert.EqualValues(t, callers, s.Concurrency)
			assert.Equal(t, 112*callers, s.Operations, "the call that is under way at the end counts")
			assert.Equal(t, 1008*time.Millisecond, s.Elapsed, "and its time")
			assert.InDelta(t, float64(callers)*1000/9, s.Rate(), 1e-6)
			assert.True(t, s.Complete)
			assert.Zero(t, s.Failed())
		}
	})
}

// TestLatency: of 1,000 operations one takes 100 ms, 9 take 10 ms, 90 take 3 ms, and the others 1 ms.
func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := func(n int64) time.Duration {
			switch {
			case n == 1000:
				return 100 * time.Millisecond
			case n%100 == 0:
				return 10 * time.Millisecond
			case n%10 == 0:
				return 3 * time.Millisecond
			}
			return time.Millisecond
		}
		var whole time.Duration
		for n := range int64(1000) {
			whole += took(n + 1)
		}
		steps := loadtest.Run(t.Context(), loadtest.Plan{Concurrency: []int{1}, Duration: whole - 50*time.Millisecond},
			work(func(_ context.Context, n int64) error { time.Sleep(took(n)); return nil }))
		require.Len(t, steps, 1)
		l := steps[0].Latency
		require.EqualValues(t, 1000, steps[0].Operations)
		assert.Equal(t, whole/1000, l.Average)
		assert.Equal(t, 100*time.Millisecond, l.Max)
		for want, got := range map[time.Duration]time.Duration{1e6: l.P50, 3e6: l.P99, 10e6: l.P999} {
			assert.GreaterOrEqual(t, got, want)
			assert.LessOrEqual(t, got, want+want/100)
		}
		assert.Equal(t, time.Millisecond, l.P90.Truncate(100*time.Microsecond))
		var counts []int64
		for i, b := range l.Histogram {
			counts = append(counts, b.Count)
			if i > 0 {
				assert.Equal(t, l.Histogram[i-1].To, b.From, "no gap")
			}
		}
		assert.Equal(t, time.Millisecond, l.Histogram[0].From)
		assert.Equal(t, 200*time.Millisecond, l.Histogram[len(l.Histogram)-1].To)
		assert.Equal(t, []int64{900, 90, 0, 9, 0, 0, 1}, counts, "1 to 2, 2 to 5, 5 to 10, 10 to 20, 20 to 50, 50 to 100, 100 to 200 ms")
	})
}

// TestAnOutlierBeyondTheHistogram: what took longer than it has buckets for is counted all the same.
func TestAnOutlierBeyondTheHistogram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := loadtest.Plan{Concurrency: []int{1}, Duration: time.Second, Grace: 24 * time.Hour}
		steps := loadtest.Run(t.Context(), plan, work(taking(3*time.Hour)))
		require.Len(t, steps, 1)
		assert.EqualValues(t, 1, steps[0].Operations)
		assert.Equal(t, 3*time.Hour, steps[0].Latency.Max)
		require.Len(t, steps[0].Latency.Histogram, 1)
		assert.Less(t, steps[0].Latency.Histogram[0].From, 3*time.Hour)
	})
}

func TestWarmUpIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		steps := loadtest.Run(t.Context(), loadtest.Plan{Concurrency: []int{2}, Duration: time.Second, WarmUp: 100 * time.Millisecond},
			work(func(_ context.Context, n int64) error {
				if n <= 2 { // both callers are slow at first, and fail
					time.Sleep(time.Second)
					return errToken
				}
				time.Sleep(300 * time.Millisecond)
				return nil
			}))
		require.Len(t, steps, 1)
		assert.Zero(t, steps[0].Failed())
		assert.EqualValues(t, 8, steps[0].Operations)
		assert.Equal(t, 300*time.Millisecond, steps[0].Latency.Max)
		assert.Equal(t, 1200*time.Millisecond, steps[0].Elapsed)
	})
}

func TestErrorsAreCountedByKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := work(func(_ context.Context, n int64) error {
			time.Sleep(time.Millisecond)
			if n%5 == 0 {
				return errToken
			}
			return nil
		})
		w.Describe = func(err error) (kind, text string) { return "Upset", err.Error() }
		w.Check = func(answer []byte) error {
			if len(answer) == 2 && answer[1] == '1' { // 11, 21, 31 and so on
				return &loadtest.WrongError{What: "not " + string(answer)}
			}
			return nil
		}
		steps := loadtest.Run(t.Context(), loadtest.Plan{Concurrency: []int{1}, Duration: 49500 * time.Microsecond}, w)
		require.Len(t, steps, 1)
		assert.Equal(t, []loadtest.Errors{{Kind: "Upset", Count: 10, Example: errToken.Error()},
			{Kind: "WrongAnswer", Count: 4, Example: "not 11"}}, steps[0].Errors)
		assert.EqualValues(t, 50-14, steps[0].Operations, "what failed is no operation")
		assert.EqualValues(t, 14, steps[0].Failed())
	})
}

// TestKindsAreBounded: a server that thinks up codes does not fill the memory.
func TestKindsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		steps := loadtest.Run(t.Context(), loadtest.Plan{Concurrency: []int{3}, Duration: 999500 * time.Microsecond},
			work(func(_ context.Context, n int64) error {
				time.Sleep(time.Millisecond)
				return fmt.Errorf("code %d", n)
			}))
		require.Len(t, steps, 1)
		assert.LessOrEqual(t, len(steps[0].Errors), 21)
		assert.Equal(t, "OtherErrors", steps[0].Errors[0].Kind)
		assert.EqualValues(t, 3000, steps[0].Failed())
	})
}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		steps := loadtest.Run(t.Context(), loadtest.Plan{Concurrency: []int{1}, Duration: time.Second, Deadline: 400 * time.Millisecond},
			work(func(ctx context.Context, _ int64) error {
				<-ctx.Done()
				return ctx.Err()
			}))
		require.Len(t, steps, 1)
		assert.Equal(t, []loadtest.Errors{{Kind: "context deadline exceeded", Count: 3, Example: "context deadline exceeded"}}, steps[0].Errors)
		assert.Equal(t, 1200*time.Millisecond, steps[0].Elapsed)
	})
}

// TestInterrupt: the call that is under way comes back and counts, and no other begins.
func TestInterrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		steps := loadtest.Run(ctx, loadtest.Plan{Concurrency: []int{1, 2}, Duration: time.Minute, Grace: time.Minute},
			work(func(ctx context.Context, n int64) error {
				if n == 3 {
					cancel()
				}
				time.Sleep(10 * time.Millisecond)
				return ctx.Err()
			}))
		require.Len(t, steps, 1)
		assert.EqualValues(t, 3, steps[0].Operations, "an interrupt is no error of a call")
		assert.Zero(t, steps[0].Failed())
		assert.False(t, steps[0].Complete)
		assert.Equal(t, 30*time.Millisecond, steps[0].Elapsed)
		assert.Empty(t, loadtest.Run(ctx, loadtest.Plan{Concurrency: []int{1}, Duration: time.Minute}, work(taking(time.Second))))
	})
}

// TestCallsThatNeverComeBack are given up, and nothing more is measured.
func TestCallsThatNeverComeBack(t *testing.T) {
	for name, warmUp := range map[string]time.Duration{"measured": 0, "warm-up": 10 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				began := time.Now()
				plan := loadtest.Plan{Concurrency: []int{3, 4}, Duration: time.Second, WarmUp: warmUp, Grace: 5 * time.Second}
				steps := loadtest.Run(t.Context(), plan, work(func(_ context.Context, n int64) error {
					time.Sleep(999 * time.Microsecond)
					if n >= 3 && n <= 4 {
						<-release
					}
					return nil
				}))
				require.Len(t, steps, 1)
				assert.Equal(t, 2, steps[0].Unfinished)
				assert.EqualValues(t, 2, steps[0].Failed())
				assert.False(t, steps[0].Complete)
				if warmUp == 0 {
					assert.Equal(t, 6*time.Second, time.Since(began))
					assert.EqualValues(t, 1003, steps[0].Operations, "1,002 of the caller that was left, and one of another")
					assert.Equal(t, 1002*999*time.Microsecond, steps[0].Elapsed, "the time in which nothing came back says nothing of the rate")
				}
				close(release)
			})
		})
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []loadtest.Progress
		plan := loadtest.Plan{Concurrency: []int{1, 2}, Duration: 500 * time.Millisecond, WarmUp: 250 * time.Millisecond,
			Progress: func(p loadtest.Progress) { told = append(told, p) }}
		loadtest.Run(t.Context(), plan, work(taking(9*time.Millisecond)))
		require.NotEmpty(t, told)
		assert.True(t, told[0].WarmingUp)
		for i, p := range told {
			assert.Equal(t, 1500*time.Millisecond, p.Total)
			if i > 0 {
				assert.GreaterOrEqual(t, p.Elapsed, told[i-1].Elapsed)
			}
		}
		last := told[len(told)-1]
		assert.Equal(t, 2, last.Concurrency)
		assert.Equal(t, last.Total, last.Elapsed)
		assert.EqualValues(t, 112, last.Operations)
		assert.Zero(t, last.Errors)
	})
}

// tokenOf is a token that does so many operations at once, of which each takes a millisecond.
func tokenOf(sessions int) loadtest.Work {
	places := make(chan struct{}, sessions)
	return work(func(context.Context, int64) error {
		places <- struct{}{}
		time.Sleep(time.Millisecond)
		<-places
		return nil
	})
}

func TestRecommendationOfATokenThatDoesFourAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		steps := loadtest.Run(t.Context(), loadtest.Plan{Concurrency: []int{1, 2, 4, 8, 16}, Duration: time.Second}, tokenOf(4))
		r, ok := loadtest.Recommend(steps)
		require.True(t, ok)
		assert.Equal(t, 4, r.Least.Concurrency)
		assert.False(t, r.Rising)
		r, ok = loadtest.Recommend(steps[:3])
		require.True(t, ok)
		assert.Equal(t, 4, r.Least.Concurrency)
		assert.True(t, r.Rising, "more callers may bring more")
	})
}

func TestRecommend(t *testing.T) {
	step := func(callers int, operations int64) *loadtest.Step {
		return &loadtest.Step{Concurrency: callers, Operations: operations, Elapsed: time.Second, Complete: true}
	}
	interrupted := step(8, 5000)
	interrupted.Complete = false
	for name, tc := range map[string]struct {
		steps  []*loadtest.Step
		least  int // 0: no recommendation
		best   int
		rising bool
	}{
		"95 % is enough":           {[]*loadtest.Step{step(1, 500), step(2, 950), step(4, 1000)}, 2, 4, false},
		"less is not":              {[]*loadtest.Step{step(1, 500), step(2, 949), step(4, 1000)}, 4, 4, true},
		"more callers do harm":     {[]*loadtest.Step{step(1, 1000), step(2, 900), step(4, 800)}, 1, 1, false},
		"an interrupted one":       {[]*loadtest.Step{step(1, 500), step(4, 1000), interrupted}, 4, 4, true},
		"one alone":                {[]*loadtest.Step{step(4, 1000)}, 0, 0, false},
		"one and the interrupted":  {[]*loadtest.Step{step(4, 1000), interrupted}, 0, 0, false},
		"nothing":                  {nil, 0, 0, false},
		"where nothing succeeded":  {[]*loadtest.Step{step(1, 0), step(2, 0)}, 0, 0, false},
		"whatever their order was": {[]*loadtest.Step{step(4, 1000), step(2, 990), step(1, 100)}, 2, 4, false},
	} {
		r, ok := loadtest.Recommend(tc.steps)
		require.Equal(t, tc.least > 0, ok, name)
		if ok {
			assert.Equal(t, tc.least, r.Least.Concurrency, name)
			assert.Equal(t, tc.best, r.Best.Concurrency, name)
			assert.Equal(t, tc.rising, r.Rising, name)
		}
	}
}
