package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"
)

// Asking for MACs and signatures while the token fails.

const (
	loadWorkers = 32
	loadKeys    = 4
	// loadDeadline is the time that the server gives an operation (docs/server.md), and that callers of the library have here.
	loadDeadline = 10 * time.Second
	// rateWindow is over how long the rate is taken, and fullRate the part of the rate before that counts as full.
	rateWindow = 200 * time.Millisecond
	fullRate   = 0.7
)

// kmsCalls is the API as both a Client of the library and one of the SDK have it.
type kmsCalls interface {
	CreateKey(context.Context, *kms.CreateKeyInput, ...func(*kms.Options)) (*kms.CreateKeyOutput, error)
	GenerateMac(context.Context, *kms.GenerateMacInput, ...func(*kms.Options)) (*kms.GenerateMacOutput, error)
	Sign(context.Context, *kms.SignInput, ...func(*kms.Options)) (*kms.SignOutput, error)
}

// question is one that has one right answer, which is a MAC or a signature that is the same each time.
type question struct {
	ask  func(context.Context, kmsCalls) ([]byte, error)
	want []byte
}

// macQuestion makes a key and asks for a MAC by it.
func macQuestion(t *testing.T, c kmsCalls) question {
	t.Helper()
	made, err := c.CreateKey(t.Context(), createInput(types.KeySpecHmac256))
	require.NoError(t, err)
	return question{ask: func(ctx context.Context, c kmsCalls) ([]byte, error) {
		out, err := c.GenerateMac(ctx, macInput(*made.KeyMetadata.KeyId, types.MacAlgorithmSpecHmacSha256, []byte("message")))
		if err != nil {
			return nil, err
		}
		return out.Mac, nil
	}}.answered(t, c)
}

// signQuestion makes a key pair and asks for a signature without randomness in it.
func signQuestion(t *testing.T, c kmsCalls) question {
	t.Helper()
	made, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeSignVerify})
	require.NoError(t, err)
	return question{ask: func(ctx context.Context, c kmsCalls) ([]byte, error) {
		out, err := c.Sign(ctx, &kms.SignInput{KeyId: made.KeyMetadata.KeyId, Message: []byte("message"),
			SigningAlgorithm: types.SigningAlgorithmSpecRsassaPkcs1V15Sha256})
		if err != nil {
			return nil, err
		}
		return out.Signature, nil
	}}.answered(t, c)
}

// answered learns the right answer while nothing fails.
func (q question) answered(t *testing.T, c kmsCalls) question {
	t.Helper()
	var err error
	q.want, err = q.ask(t.Context(), c)
	require.NoError(t, err)
	return q
}

// asking is a load: each worker asks its questions one after the other until stop, and what is answered is counted.
type asking struct {
	questions []question
	workers   sync.WaitGroup
	over      chan struct{}
	right     atomic.Int64
	refused   atomic.Int64 // KeyUnavailableException

	mu      sync.Mutex // guards the rest
	codes   map[string]int
	wrong   int
	slowest time.Duration
	last    error // that is no answer to expect
}

// startAsking begins with a client for each worker.
func startAsking(questions []question, clients []kmsCalls) *asking {
	a := &asking{questions: questions, over: make(chan struct{}), codes: map[string]int{}}
	for i, c := range clients {
		a.workers.Go(func() {
			for n := i; ; n++ {
				select {
				case <-a.over:
					return
				default:
					a.ask(questions[n%len(questions)], c)
				}
			}
		})
	}
	return a
}

func (a *asking) ask(q question, c kmsCalls) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*loadDeadline) // an answer after the deadline shall be seen
	defer cancel()
	began := time.Now()
	got, err := q.ask(ctx, c)
	took := time.Since(began)
	code := codeOf(err)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.slowest = max(a.slowest, took)
	switch {
	case err == nil && bytes.Equal(got, q.want):
		a.right.Add(1)
		return
	case err == nil:
		a.wrong++
		return
	case code == "KeyUnavailableException":
		a.refused.Add(1)
	case code != "ThrottlingException":
		a.last = err
	}
	a.codes[code]++
}

// codeOf is the code of an error of the API, or what else it is.
func codeOf(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return fmt.Sprintf("%T", err)
}

// stop ends the load and holds it to what every answer must be.
func (a *asking) stop(t *testing.T) {
	t.Helper()
	close(a.over)
	a.workers.Wait()
	require.Zero(t, a.wrong, "answers by another key, or damaged")
	require.NoError(t, a.last)
	require.Less(t, a.slowest, loadDeadline)
	require.Positive(t, a.right.Load())
}

// String tells what was answered.
func (a *asking) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := fmt.Sprintf("right %d, wrong %d", a.right.Load(), a.wrong)
	for _, code := range slices.Sorted(maps.Keys(a.codes)) {
		text += fmt.Sprintf(", %s %d", strings.TrimSuffix(code, "Exception"), a.codes[code])
	}
	return text + fmt.Sprintf(", slowest answer %v", a.slowest.Round(time.Millisecond))
}

// rate waits and returns how many right answers there were a second.
func (a *asking) rate(during time.Duration) float64 {
	began, before := time.Now(), a.right.Load()
	for tick := time.NewTicker(pollEvery); ; <-tick.C {
		if past := time.Since(began); past >= during {
			tick.Stop()
			return float64(a.right.Load()-before) / past.Seconds()
		}
	}
}

const pollEvery = 10 * time.Millisecond

// sample is how many right answers there were at a moment.
type sample struct {
	at    time.Time
	right int64
}

// full waits until there is the full rate again, and returns how long after a moment that was: the end of the first window that has it.
// slower tells that it was the machine that was slower than before: the rate is then what it is a while after.
func (a *asking) full(t *testing.T, since time.Time, before float64) (took time.Duration, slower bool) {
	t.Helper()
	samples := []sample{{time.Now(), a.right.Load()}}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for limit := fullRateWithin; ; limit *= 2 {
		for time.Since(since) < limit+time.Second {
			<-tick.C
			samples = append(samples, sample{time.Now(), a.right.Load()})
			if at, ok := firstFull(samples, before); ok {
				return at.Sub(since), false
			}
		}
		later := samples[max(0, len(samples)-int(time.Second/pollEvery)):]
		now := float64(later[len(later)-1].right-later[0].right) / later[len(later)-1].at.Sub(later[0].at).Seconds()
		if at, ok := firstFull(samples, min(before, now)); ok {
			return at.Sub(since), true
		}
		require.Less(t, limit, outagePatience, "the full rate of %.0f a second does not come back: %v", before, a)
	}
}

// firstFull returns the end of the first window with the full rate.
func firstFull(samples []sample, before float64) (at time.Time, ok bool) {
	first := 0
	for _, now := range samples {
		for first+1 < len(samples) && now.at.Sub(samples[first+1].at) >= rateWindow {
			first++
		}
		window := now.at.Sub(samples[first].at)
		if window >= rateWindow && float64(now.right-samples[first].right) >= fullRate*before*window.Seconds() {
			return now.at, true
		}
	}
	return time.Time{}, false
}
