package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/loadtest"
)

// How long a throw-away key may take to be made, which for a long RSA key can be minutes, and its deletion to be scheduled. Neither ends
// by an interrupt.
const (
	makingPatience   = 10 * time.Minute
	deletionPatience = 30 * time.Second
)

// bench is one measurement.
type bench struct {
	app *app

	spec         types.KeySpec // of the throw-away key
	keyID        string        // of another key; empty for a throw-away one
	operation    string        // empty for the usual one of the key
	messageBytes int
	plan         loadtest.Plan
	asJSON       bool

	keys     api                           // makes and deletes the key
	measured api                           // is measured
	sessions func() pkcs11kms.SessionStats // of the pool; nil for a server, of which nothing is known

	used, waiting int // sessions that were open, and calls that waited for one, at most
}

// forMeasuring are the options of a client that is measured: a connection for each caller, which stays open, and every refusal
// and every failure an answer of its own.
func forMeasuring(callers int) func(*kms.Options) {
	return func(o *kms.Options) {
		o.Retryer = aws.NopRetryer{}
		if client, ok := o.HTTPClient.(*awshttp.BuildableClient); ok {
			o.HTTPClient = client.WithTransportOptions(func(t *http.Transport) {
				t.MaxIdleConns, t.MaxIdleConnsPerHost = callers, callers
			})
		}
	}
}

// run makes the key, measures, deletes the key whatever came of it, and tells.
func (b *bench) run(ctx context.Context) error {
	keyID := b.keyID
	if keyID == "" {
		var err error
		if keyID, err = b.makeKey(ctx); err != nil {
			return err
		}
	}
	subject, steps, err := b.measure(ctx, keyID)
	report := newBenchReport(subject, steps)
	if b.keyID == "" {
		b.deleteKey(ctx, keyID, report)
	}
	if err != nil {
		return err
	}
	report.Interrupted = ctx.Err() != nil
	if b.sessions != nil {
		report.Sessions = &benchSessions{Size: b.sessions().Size, Used: b.used, Waiting: b.waiting}
	}
	if err := b.print(report); err != nil {
		return err
	}
	if failure := failureOf(steps); failure != nil {
		b.app.warn(failure)
		b.app.printHint(b.app.stderr, failure)
		return exitError(exitRefused)
	}
	if report.Key.Left {
		return exitError(exitEnvironment)
	}
	return ctx.Err()
}

// failureOf is the error of operations that failed, or nil.
func failureOf(steps []*loadtest.Step) error {
	var failed, done int64
	hint := ""
	for _, s := range steps {
		failed += s.Failed()
		done += s.Operations
		for _, e := range s.Errors {
			if e.Kind == loadtest.KindThrottled {
				hint = "the token had no session left, or a server refused what is above its request rates; those are off by\n" +
					"quotas.rates: \"off\" in its config.yaml"
			}
		}
	}
	if failed == 0 {
		return nil
	}
	return &environmentError{fmt.Errorf("%d of %d operations failed", failed, failed+done), hint}
}

// measure has the key used as the plan says.
func (b *bench) measure(ctx context.Context, keyID string) (loadtest.Subject, []*loadtest.Step, error) {
	work, subject, err := loadtest.Prepare(ctx, namedCalls{b.measured}, keyID, b.operation, b.messageBytes)
	if err != nil {
		if wrong, ok := errors.AsType[*loadtest.WrongError](err); ok {
			err = &pkcs11kms.RefusedError{Problem: "a wrong answer: " + wrong.What, Advice: "examine the token: pkcs11kms doctor --crosscheck"}
		}
		return subject, nil, unfit(err)
	}
	show := func(loadtest.Progress) {}
	plan := b.plan
	if isTerminal(b.app.stderr) {
		m := newMeter(b.app.stderr, time.Duration(len(plan.Concurrency))*(plan.WarmUp+plan.Duration))
		defer m.close()
		show = func(p loadtest.Progress) { m.show(p.Elapsed, progressText(p)) }
	}
	plan.Grace = plan.Deadline + benchGrace
	plan.Progress = func(p loadtest.Progress) {
		if b.sessions != nil {
			now := b.sessions()
			b.used, b.waiting = max(b.used, now.Open), max(b.waiting, now.Waiting)
		}
		show(p)
	}
	return subject, loadtest.Run(ctx, plan, work), nil
}

// makeKey makes the throw-away key. An interrupt waits for it: nobody would know the id of a key that was given up.
func (b *bench) makeKey(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() {
		fmt.Fprintln(b.app.stderr, "pkcs11kms: waiting for the key that is being made, so as to delete it; Ctrl-C once more leaves it there")
	})()
	making, cancel := context.WithTimeout(context.WithoutCancel(ctx), makingPatience)
	defer cancel()
	keyID, err := loadtest.MakeKey(making, b.keys, b.spec)
	if err != nil {
		return "", &operationError{"CreateKey", err}
	}
	return keyID, nil
}

// deleteKey schedules the deletion of the throw-away key, or says what is left and how to delete it.
func (b *bench) deleteKey(ctx context.Context, keyID string, report *benchReport) {
	deleting, cancel := context.WithTimeout(context.WithoutCancel(ctx), deletionPatience)
	defer cancel()
	report.Key.ThrowAway = true
	date, err := loadtest.DeleteKey(deleting, b.keys, keyID)
	if err == nil {
		report.Key.DeletionDate = &date
		return
	}
	report.Key.Left = true
	if b.sessions == nil {
		err = b.app.remoteError(err)
	}
	left := &environmentError{fmt.Errorf("the throw-away key %q is left: scheduling its deletion: %w", keyID, err),
		fmt.Sprintf("delete it: pkcs11kms schedule-key-deletion --key-id %s --pending-window-in-days %d", shellQuote(keyID),
			loadtest.PendingWindow)}
	b.app.warn(left)
	b.app.printHint(b.app.stderr, left)
}

// progressText is what the line on the terminal says.
func progressText(p loadtest.Progress) string {
	text := counted(p.Concurrency, "caller")
	if p.WarmingUp {
		return text + ", warming up"
	}
	text += fmt.Sprintf(": %s/s", rate(float64(p.Operations)/max(p.InStep.Seconds(), 1e-9)))
	if p.Errors > 0 {
		text += ", " + counted(int(p.Errors), "error")
	}
	return text
}
