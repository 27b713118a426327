package guard

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

var errRefused = errors.New("refused")

// fake is a call about a text. It notes its steps, and fails at those that refuse.
type fake struct {
	steps     []string
	refuse    map[string]error
	cached    bool // the subject is known without the store
	dryRun    bool
	takesBack bool
	clock     time.Time
}

func (f *fake) step(name string) error {
	f.steps = append(f.steps, name)
	return f.refuse[name]
}

func (f *fake) Now() time.Time             { return f.clock }
func (f *fake) Check() error               { return f.step("check") }
func (f *fake) Bind(context.Context) error { return f.step("bind") }

func (f *fake) Cached(context.Context) (string, bool, error) {
	return "cached", f.cached, f.step("cached")
}

func (f *fake) Stored(context.Context) (string, error, error) {
	return "stored", f.refuse["missing"], f.step("stored")
}

func (f *fake) Authorise(_ context.Context, s string, cached bool) error {
	if cached {
		return f.step("authorise " + s + " without the store")
	}
	return f.step("authorise " + s)
}

func (f *fake) Throttle(string) error              { return f.step("throttle") }
func (f *fake) Fits(context.Context, string) error { return f.step("fits") }
func (f *fake) DryRun() bool                       { return f.dryRun }

func (f *fake) TakeBack(context.Context) bool {
	_ = f.step("take back")
	return f.takesBack
}

func (f *fake) Answer(_ context.Context, s string, err error) error {
	_ = f.step("answer")
	return err
}

func (f *fake) Event(s string) audit.Event { return audit.Event{Resource: s} }

// recorder is an audit log in memory.
type recorder struct {
	f       *fake
	outcome audit.Event
}

func (r *recorder) Intend(context.Context, audit.Event) error { return r.f.step("intend") }

func (r *recorder) Record(_ context.Context, e audit.Event) error {
	r.outcome = e
	return r.f.step("record")
}

var (
	reading = &ops.Operation{States: ops.EnabledOnly}
	writing = &ops.Operation{Writes: true}
)

// A call takes its steps in the order of the real service, and the first refusal ends it: nothing is charged, intended or done
// after it, and the log sees it.
func TestOrder(t *testing.T) {
	for name, c := range map[string]struct {
		op     *ops.Operation
		cached bool
		dryRun bool
		want   []string
	}{
		"reading, cached": {reading, true, false, []string{"check", "cached", "authorise cached without the store", "throttle", "fits", "run"}},
		"reading":         {reading, false, false, []string{"check", "cached", "stored", "authorise stored", "throttle", "fits", "run"}},
		"writing":         {writing, true, false, []string{"check", "bind", "stored", "authorise stored", "throttle", "fits", "intend", "run"}},
		"dry run":         {writing, true, true, []string{"check", "bind", "stored", "authorise stored", "throttle", "fits", "run"}},
	} {
		t.Run(name, func(t *testing.T) {
			for refusing := range len(c.want) + 1 {
				f := &fake{refuse: map[string]error{}, cached: c.cached, dryRun: c.dryRun}
				want, wantErr := append([]string{}, c.want...), error(nil)
				if refusing < len(c.want) {
					f.refuse[c.want[refusing]], wantErr = errRefused, errRefused
					want = want[:refusing+1]
					if want[refusing] == "authorise cached without the store" { // counts only where it permits
						f.refuse["authorise stored"] = errRefused
						want = append(want, "stored", "authorise stored")
					}
				}
				log := &recorder{f: f}
				err := Perform(t.Context(), c.op, f, log, nil, func(context.Context, string) error { return f.step("run") })
				require.Equal(t, wantErr, err)
				require.Equal(t, append(want, "answer", "record"), f.steps)
				require.Equal(t, wantErr, log.outcome.Err)
			}
		})
	}
}

// An input of a wrong form is seen by the log and looked up nowhere.
func TestFormIsRecorded(t *testing.T) {
	f := &fake{}
	log := &recorder{f: f}
	err := Perform(t.Context(), reading, f, log, errRefused, func(context.Context, string) error { return f.step("run") })
	require.Equal(t, errRefused, err)
	require.Equal(t, []string{"answer", "record"}, f.steps)
	require.Equal(t, errRefused, log.outcome.Err)
}

// What the log cannot write down is not answered.
func TestWhatIsNotRecordedIsNotAnswered(t *testing.T) {
	for _, before := range []error{nil, errors.New("an error of the call")} {
		f := &fake{refuse: map[string]error{"record": errRefused, "run": before}}
		err := Perform(t.Context(), reading, f, &recorder{f: f}, nil, func(context.Context, string) error { return f.step("run") })
		require.Equal(t, errRefused, err)
		assert.Equal(t, []string{"answer", "record", "answer"}, f.steps[len(f.steps)-3:])
	}
}

// Who is not there is told to those alone who may ask.
func TestMissing(t *testing.T) {
	missing := errors.New("there is none")
	f := &fake{refuse: map[string]error{"missing": missing}}
	run := func(context.Context, string) error { return f.step("run") }
	require.Equal(t, missing, Perform(t.Context(), reading, f, audit.Discard, nil, run))
	require.NotContains(t, f.steps, "throttle")
	f = &fake{refuse: map[string]error{"missing": missing, "authorise stored": errRefused}}
	require.Equal(t, errRefused, Perform(t.Context(), reading, f, audit.Discard, nil, run))
}

// A call that lost a race is decided anew, charged once and intended once. One that only reads is not repeated.
func TestConflict(t *testing.T) {
	tries := 0
	run := func(context.Context, string) error {
		tries++
		if tries < 4 {
			return keystore.ErrConflict
		}
		return nil
	}
	f := &fake{}
	log := &recorder{f: f}
	require.NoError(t, Perform(t.Context(), writing, f, log, nil, run))
	require.Equal(t, 4, tries)
	count := map[string]int{}
	for _, step := range f.steps {
		count[step]++
	}
	require.Equal(t, map[string]int{"check": 1, "bind": 4, "stored": 4, "authorise stored": 4, "throttle": 1, "fits": 4,
		"intend": 1, "answer": 1, "record": 1}, count)

	tries = 0
	require.ErrorIs(t, Perform(t.Context(), reading, &fake{}, audit.Discard, nil, run), keystore.ErrConflict)
	require.Equal(t, 1, tries)

	tries = -1000
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, Perform(ended, writing, &fake{}, audit.Discard, nil, run), keystore.ErrConflict)
	require.Equal(t, -999, tries)
}

// The result of a call that took longer than a permission may get old counts only if the call would still be allowed. That is
// asked without taking from the rate again: work that is done is not throttled.
func TestSlowCall(t *testing.T) {
	for took, again := range map[time.Duration]bool{0: false, RecheckInterval - 1: false, RecheckInterval: true, -1: true} {
		for _, refused := range []bool{false, true} {
			f := &fake{clock: time.Unix(1000, 0), refuse: map[string]error{}}
			err := Perform(t.Context(), reading, f, audit.Discard, nil, func(context.Context, string) error {
				f.clock = f.clock.Add(took)
				f.steps = nil
				f.refuse["throttle"] = errors.New("throttled")
				if refused {
					f.refuse["fits"] = errRefused
				}
				return nil
			})
			want := []string{"answer"}
			if again {
				want = []string{"cached", "stored", "authorise stored", "fits", "answer"}
			}
			require.Equal(t, want, f.steps, took)
			require.Equal(t, again && refused, errors.Is(err, errRefused), took)
			require.Equal(t, again && refused, err != nil, took)
		}
	}
}

// What was created is taken back where its outcome is not recorded, and only then; the log is told of that, once.
func TestWhatIsNotRecordedIsTakenBack(t *testing.T) {
	failing, ok := errors.New("the disk is full"), map[string]error{}
	left := []string{"run", "answer", "record", "answer"}
	for name, c := range map[string]struct {
		op        *ops.Operation
		refuse    map[string]error
		dryRun    bool
		takesBack bool
		want      []string // from run on
	}{
		"recorded": {writing, ok, false, true, []string{"run", "answer", "record"}},
		"not recorded": {writing, map[string]error{"record": failing}, false, true,
			[]string{"run", "answer", "record", "answer", "take back", "record"}},
		"nothing to undo":    {writing, map[string]error{"record": failing}, false, false, append(left[:4:4], "take back")},
		"failed by itself":   {writing, map[string]error{"record": failing, "run": errRefused}, false, true, left},
		"not recorded, read": {reading, map[string]error{"record": failing}, false, true, left},
		"dry run":            {writing, map[string]error{"record": failing}, true, true, left},
	} {
		f := &fake{refuse: c.refuse, takesBack: c.takesBack, dryRun: c.dryRun}
		log := &recorder{f: f}
		err := Perform(t.Context(), c.op, f, log, nil, func(context.Context, string) error { return f.step("run") })
		require.Equal(t, c.refuse["record"], err, name)
		require.Equal(t, c.want, f.steps[slices.Index(f.steps, "run"):], name)
		if slices.Contains(c.want, "take back") && c.takesBack {
			require.Equal(t, failing, log.outcome.Err, name)
		}
	}
}
