package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/pkcs11kms/loadtest"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// readBench reads what bench --json has printed, in which nothing else may be.
func readBench(t *testing.T, text []byte) benchReport {
	t.Helper()
	var report benchReport
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(&report), "%s", text)
	return report
}

func TestBenchJSON(t *testing.T) {
	p := newProgram(t)
	report := readBench(t, []byte(p.must("bench", "--concurrency", "1,3", "--duration", "20ms", "--warm-up", "5ms", "--json")))
	assert.Equal(t, "GenerateMac", report.Operation)
	assert.Equal(t, "HMAC_SHA_256", report.Algorithm)
	assert.Equal(t, 32, report.MessageBytes)
	assert.Equal(t, "HMAC_256", report.Key.KeySpec)
	assert.True(t, report.Key.ThrowAway)
	assert.WithinDuration(t, time.Now().Add(7*24*time.Hour), *report.Key.DeletionDate, time.Hour)
	assert.False(t, report.Interrupted)
	require.Len(t, report.Steps, 2)
	for i, callers := range []int{1, 3} {
		s := report.Steps[i]
		assert.Equal(t, callers, s.Concurrency)
		assert.True(t, s.Complete)
		assert.GreaterOrEqual(t, s.Operations, int64(callers))
		assert.InEpsilon(t, float64(s.Operations)/s.ElapsedSeconds, s.PerSecond, 1e-6)
		assert.NotNil(t, s.Errors, "an empty list, not null")
		assert.Empty(t, s.Errors)
		var counted int64
		for _, b := range s.Histogram {
			assert.Less(t, b.From, b.Below)
			counted += b.Count
		}
		assert.Equal(t, s.Operations, counted)
		l := s.Latency
		ordered := []float64{0, l.P50, l.P90, l.P99, l.P999, l.Max}
		assert.IsNonDecreasing(t, ordered)
		assert.Positive(t, l.Average)
		assert.LessOrEqual(t, l.Average, l.Max)
	}
	assert.Equal(t, 32, report.Sessions.Size)
	assert.LessOrEqual(t, report.Sessions.Used, 32)
	assert.Positive(t, report.Sessions.Used)
	require.NotNil(t, report.Recommendation)
	assert.Contains(t, []int{1, 3}, report.Recommendation.Concurrency)
	assert.GreaterOrEqual(t, report.Recommendation.PerSecond, loadtest.Enough*report.Recommendation.BestPerSecond)
}

// keyState is the state of a key, by the program.
func (p *program) keyState(keyID string) string {
	p.t.Helper()
	return strings.TrimSpace(p.must("describe-key", "--key-id", keyID, "--query", "KeyMetadata.KeyState", "--output", "text"))
}

// keys are the ids of all keys.
func (p *program) keys() []string {
	p.t.Helper()
	return strings.Fields(p.must("list-keys", "--query", "Keys[].KeyId", "--output", "text"))
}

// TestInterruptedBench: Ctrl-C ends the measurement, the figures so far are printed, and the key is deleted.
func TestInterruptedBench(t *testing.T) {
	for name, signal := range map[string]os.Signal{"SIGINT": os.Interrupt, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			p := newProgram(t)
			d := p.serve(anyPort...)
			server := p.command("sh", "-c", `set -- $(pkcs11kms iam create-access-key --query AccessKey.[AccessKeyId,SecretAccessKey] --output text)
				export AWS_ACCESS_KEY_ID=$1 AWS_SECRET_ACCESS_KEY=$2 AWS_REGION=us-east-1
				exec pkcs11kms bench --endpoint-url `+d.url+` --concurrency 2,4 --duration 1h --warm-up 0s --json`)
			seen := func() bool { return strings.Count(d.log.String(), "operation=GenerateMac") > 20 }
			interrupted(t, p, server, signal, seen)
		})
	}
}

// interrupted sends the signal once the measurement is seen to be under way, and returns the report.
func interrupted(t *testing.T, p *program, cmd *exec.Cmd, signal os.Signal, seen func() bool) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Start())
	require.Eventually(t, seen, patience, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(signal))
	require.Error(t, cmd.Wait())
	assert.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
	assert.Equal(t, "pkcs11kms: interrupted\n", stderr.String())
	report := readBench(t, stdout.Bytes())
	assert.True(t, report.Interrupted)
	require.Len(t, report.Steps, 1)
	assert.Positive(t, report.Steps[0].Operations)
	assert.Empty(t, report.Steps[0].Errors, "the interrupt is none")
	assert.False(t, report.Steps[0].Complete)
	assert.Nil(t, report.Recommendation, "half a measurement recommends nothing")
	assert.Len(t, p.keys(), 2)
	assert.Equal(t, "PendingDeletion", p.keyState(report.Key.KeyID))
	assert.Equal(t, "Enabled", p.keyState(p.key))
}

// TestInterruptedLocalBench interrupts as soon as the key is there, wherever the program is then, and at the state directory itself.
func TestInterruptedLocalBench(t *testing.T) {
	p := newProgram(t)
	cmd := p.command("pkcs11kms", "bench", "--concurrency", "2", "--duration", "1h")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return len(p.keys()) == 2 }, patience, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.Error(t, cmd.Wait())
	assert.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
	assert.True(t, strings.HasSuffix(stderr.String(), "pkcs11kms: interrupted\n"), "%s", &stderr)
	for _, key := range p.keys() {
		if key != p.key {
			assert.Equal(t, "PendingDeletion", p.keyState(key))
		}
	}
}

// TestBenchOfATokenThatGoesWrong: MACs that are not equal are wrong answers, and the exit code says so.
func TestBenchOfATokenThatGoesWrong(t *testing.T) {
	p := newProgram(t)
	faulty := p.throughFaults()
	faulty.AtStart("on C_Sign flip longer=2999 skip=5 final")
	cmd := p.command("pkcs11kms", "bench", "--message-bytes", "3000", "--concurrency", "8", "--duration", "10ms", "--warm-up", "1ms", "--json")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.Error(t, cmd.Run())
	assert.Equal(t, exitRefused, cmd.ProcessState.ExitCode(), "%s", &stderr)
	assert.Regexp(t, `(?m)^pkcs11kms: \d+ of \d+ operations failed\n$`, stderr.String())
	report := readBench(t, stdout.Bytes())
	require.Len(t, report.Steps, 1)
	require.Len(t, report.Steps[0].Errors, 1)
	assert.Equal(t, "WrongAnswer", report.Steps[0].Errors[0].Kind)
	assert.Equal(t, "another MAC of the same message", report.Steps[0].Errors[0].Example)
	assert.Zero(t, report.Steps[0].Operations)
	assert.Equal(t, "PendingDeletion", p.keyState(report.Key.KeyID))

	faulty.AtStart("on C_Sign flip longer=2999 every=2 final") // from the start: what differs is no reference
	cmd = p.command("pkcs11kms", "bench", "--message-bytes", "3000", "--concurrency", "1", "--duration", "10ms")
	stderr.Reset()
	cmd.Stderr = &stderr
	require.Error(t, cmd.Run())
	assert.Equal(t, exitRefused, cmd.ProcessState.ExitCode())
	assert.Contains(t, stderr.String(),
		"pkcs11kms: a wrong answer: another MAC of the same message\nhint: examine the token: pkcs11kms doctor --crosscheck\n")
	for _, key := range p.keys() {
		if key != p.key {
			assert.Equal(t, "PendingDeletion", p.keyState(key))
		}
	}
}

// TestBenchOnATerminal: a line shows how far it is, and does not stay.
func TestBenchOnATerminal(t *testing.T) {
	p := newProgram(t)
	controller, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	defer controller.Close()
	require.NoError(t, unix.IoctlSetPointerInt(int(controller.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(controller.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	side, err := os.OpenFile("/dev/pts/"+itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	shown := make(chan string)
	go func() {
		var text journal
		buf := make([]byte, 4096)
		for {
			n, err := controller.Read(buf)
			if _, _ = text.Write(buf[:n]); err != nil { // EIO, once nobody has the other side
				shown <- text.String()
				return
			}
		}
	}()
	cmd := p.command("pkcs11kms", "bench", "--concurrency", "2", "--duration", "250ms", "--warm-up", "250ms")
	cmd.Stderr = side
	require.NoError(t, cmd.Run())
	require.NoError(t, side.Close())
	text := <-shown
	assert.Contains(t, text, "2 callers, warming up")
	assert.Regexp(t, `2 callers: [0-9.]+/s`, text)
	assert.Regexp(t, `(\r|\x1b\[2K| )$`, text, "the line is taken away")
}

func TestRatesAndTimesAreShort(t *testing.T) {
	for perSecond, want := range map[float64]string{12345.67: "12346", 45.67: "45.7", 0.123: "0.12"} {
		assert.Equal(t, want, rate(perSecond))
	}
	for long, short := range map[time.Duration]string{18123 * time.Nanosecond: "18.1µs", 999 * time.Nanosecond: "999ns",
		1234567 * time.Nanosecond: "1.23ms", 61234 * time.Millisecond: "1m1.2s", 0: "0s"} {
		assert.Equal(t, short, shortDuration(long).String())
	}
}

func TestFailuresAreTold(t *testing.T) {
	step := &loadtest.Step{Operations: 7, Unfinished: 1, Errors: []loadtest.Errors{{Kind: "KMSInternalException", Count: 2}}}
	err := failureOf([]*loadtest.Step{step})
	assert.EqualError(t, err, "3 of 10 operations failed")
	assert.Empty(t, hintOf(err))
	step.Errors[0].Kind = "ThrottlingException"
	assert.Contains(t, hintOf(failureOf([]*loadtest.Step{step})), "quotas.rates")
	assert.NoError(t, failureOf([]*loadtest.Step{{Operations: 7}}))
}

// throughFaults puts the module that injects faults in front of the token's.
func (p *program) throughFaults() *faultp11.Module {
	p.t.Helper()
	module := requireSoftHSM(p.t)
	faulty := faultp11.New(p.t, module)
	path := filepath.Join(p.dir, "kms", "config.yaml")
	config, err := os.ReadFile(path)
	require.NoError(p.t, err)
	require.NoError(p.t, os.WriteFile(path, bytes.ReplaceAll(config, []byte(module), []byte(faulty.Path)), 0o600))
	return faulty
}

// A token that takes long, and many calls at once, is worth more of Go's processors than the machine has cores.
func TestBenchOfASlowToken(t *testing.T) {
	p := newProgram(t)
	p.throughFaults().AtStart("on C_Sign delay 50ms")
	for processors, advice := range map[string]bool{"1": true, "8": false} {
		cmd := p.command("pkcs11kms", "bench", "--concurrency", "1,8", "--duration", "1s", "--warm-up", "0s")
		cmd.Env = append(cmd.Env, "GOMAXPROCS="+processors)
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Contains(t, string(out), "recommended: sessions: 8 in config.yaml; ")
		require.Equal(t, advice, strings.Contains(string(out), "that GOMAXPROCS=4 in the environment may bring more"), "%s", out)
	}
}
