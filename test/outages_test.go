package test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// envOutages asks for everything: each way to fail 20 times, for MACs and signatures, on a server as users have it, which then must be
// at its full rate within a second.
const envOutages = "PKCS11KMS_OUTAGES"

// fullRateWithin is how soon after the token is back the rate must be what it was.
const fullRateWithin = time.Second

// outage is one way in which a token fails and comes back.
type outage struct {
	name  string
	begin func()
	// seen says how the subject shows that it has met the outage, beside refusals: loses, that the token is declared lost.
	loses, refuses bool
	// met waits for what else there must have been before the outage ends.
	met func()
	end func()
}

// TestOutages loses a token again and again under a load of MACs or signatures, through a server and in process. Every answer is right, or
// says that the key is not available, in time; and in the end nothing is left of the outages.
func TestOutages(t *testing.T) {
	long(t)
	strict := os.Getenv(envOutages) != ""
	binary := executable(t, realBinary)
	if strict {
		binary = executable(t, usersBinary)
	}
	for _, where := range []string{"server", "library"} {
		for _, network := range []bool{false, true} {
			name, ready := "module", injected
			if network {
				name, ready = "network", networked
			}
			t.Run(where+"/"+name, func(t *testing.T) {
				ground := ready(t)
				configureOutages(t, ground.dir)
				maker := ground.dir.client(t)
				questions := map[string][]question{}
				for range loadKeys {
					questions["MAC"] = append(questions["MAC"], macQuestion(t, maker))
				}
				questions["Sign"] = append(questions["Sign"], signQuestion(t, maker), signQuestion(t, maker))
				require.NoError(t, maker.Close())
				var s *subject
				if where == "server" {
					s, _ = serverSubject(t, ground.dir, binary)
				} else {
					s = librarySubject(t, ground.dir)
				}
				operations := []string{"MAC", "Sign"}
				if !strict { // the other one is the library's
					operations = map[string][]string{"server": {"MAC"}, "library": {"Sign"}}[where]
				}
				for _, operation := range operations {
					outlastAll(t, s, ground.outages(s.pid), operation, questions[operation], ground, strict)
				}
				s.end()
				require.Empty(t, s.late, "the full rate was not back in time")
			})
		}
	}
}

// outlastAll goes through every way to fail.
func outlastAll(t *testing.T, s *subject, ways []outage, operation string, questions []question, ground *outageGround, strict bool) {
	t.Helper()
	warm := startAsking(questions, s.clients)
	before := warm.rate(time.Second)
	warm.stop(t)
	fresh := s.settled(t)
	t.Logf("%s, %s, %d workers: %.0f a second; %+v", s.name, operation, loadWorkers, before, fresh)
	for i, way := range ways {
		if !strict && i%2 == map[string]int{"server": 1, "library": 0}[s.name] {
			continue // the other one's turn
		}
		ok := t.Run(operation+"/"+way.name, func(t *testing.T) {
			outlastOne(t, s, way, operation, questions, strict)
			s.holdsNoMore(t, fresh)
			ground.check(t, s)
		})
		if !ok {
			t.FailNow() // the others would meet what this one has left
		}
	}
}

// outlastOne has a token fail in one way a number of times.
func outlastOne(t *testing.T, s *subject, way outage, operation string, questions []question, strict bool) {
	t.Helper()
	times, measured := 3, 100*time.Millisecond
	if strict {
		times, measured = 20, time.Second
	}
	a := startAsking(questions, s.clients)
	var before float64
	var slowest, sum time.Duration
	slower := 0
	var began figures
	for i := range times {
		now := s.back(t)
		if i == 0 {
			began = now
		}
		before = a.rate(measured) // each time, since a shared machine changes its pace
		refused := a.refused.Load()
		way.begin()
		if way.loses {
			s.until(t, way.name+": the loss is declared", func(f figures) bool { return f.losses > now.losses })
		}
		if way.met != nil {
			way.met()
		}
		if way.refuses {
			require.Eventually(t, func() bool { return a.refused.Load() > refused }, outagePatience, pollEvery, "%s: calls are refused", way.name)
		}
		way.end()
		ended := time.Now()
		s.back(t)
		took, machine := a.full(t, ended, before)
		slowest, sum = max(slowest, took), sum+took
		if machine {
			slower++
		}
	}
	a.stop(t)
	after := s.settled(t)
	t.Logf("%s, %s, %s, %d times: losses %d, module initialised anew %d, %v; before the last %.0f a second, "+
		"full rate again after %v on average, %v at most (%d times on a machine that had become slower)",
		s.name, operation, way.name, times, after.losses-began.losses, after.reinitialized-began.reinitialized, a, before,
		(sum / time.Duration(times)).Round(time.Millisecond), slowest.Round(time.Millisecond), slower)
	if strict && slowest > fullRateWithin {
		s.late = append(s.late, fmt.Sprintf("%s, %s: %v", operation, way.name, slowest))
	}
}

// outageGround is a state directory on a token that can be made to fail.
type outageGround struct {
	dir     *stateDir
	module  *faultp11.Module // which sees everything
	outages func(pid int) []outage
}

// injected is a token through the module that injects faults.
func injected(t *testing.T) *outageGround {
	t.Helper()
	tok := softhsm.NewToken(t)
	m := faultp11.New(t, tok.Module)
	tok.Module = m.Path
	m.AtStart("handles process") // a handle that is stale can be another key's
	return &outageGround{dir: newStateDirOn(t, tok), module: m, outages: func(pid int) []outage { return injectedOutages(m.In(pid)) }}
}

// check holds what must be true of a module between two outages.
func (g *outageGround) check(t *testing.T, s *subject) {
	t.Helper()
	p := g.module.In(s.pid)
	require.Empty(t, p.Violations())
	f := s.settled(t)
	require.Equal(t, f.open+1, p.Open(), "the sessions of the pool, and the one that stays open")
}

// injectedOutages are the ways in which the module makes the token of a process fail.
func injectedOutages(p *faultp11.Process) []outage {
	do := func(commands ...string) func() {
		return func() {
			for _, c := range commands {
				p.Do(c)
			}
		}
	}
	hanging := func(function string, n int) func() {
		return func() { p.Await(function, func(c faultp11.Counters) bool { return c.Hanging >= n }) }
	}
	lost := func(name, begin, end string) outage {
		return outage{name: name, begin: do(begin), loses: true, end: do(end)}
	}
	failing := func(name, rule string) outage {
		return outage{name: name, begin: do("on " + rule), refuses: true, end: do("clear")}
	}
	return []outage{
		lost("sessions lost", "lose sessions", "counters"),
		lost("sessions closed", "lose sessions CKR_SESSION_CLOSED", "counters"),
		lost("device lost until the module is initialised anew", "lose device", "counters"),
		lost("device lost with CKR_GENERAL_ERROR", "lose device CKR_GENERAL_ERROR", "counters"),
		lost("no slots until the server is back", "down", "up"),
		lost("token out and in", "eject", "insert"),
		lost("every call fails", "on * fail CKR_DEVICE_ERROR", "clear"),
		lost("replies are lost", "on C_SignInit,C_Sign,C_GetSessionInfo,C_GenerateRandom,C_Login fail CKR_DEVICE_ERROR after", "clear"),
		failing("calls fail and the device does not", "C_SignInit fail CKR_HOST_MEMORY"),
		failing("objects are not found, and stale", "C_SignInit fail CKR_OBJECT_HANDLE_INVALID"),
		failing("results are short", "C_Sign short 1"),
		failing("results are long", "C_Sign long 4"),
		{name: "calls hang", begin: do("on C_SignInit,C_Sign hang"), refuses: true, end: do("release")},
		{name: "calls hang, and the device is lost meanwhile", begin: do("on C_Sign hang times=4"), met: func() {
			hanging("C_Sign", 4)()
			p.Do("lose device")
		}, refuses: true, end: do("release")},
		{name: "the login hangs", begin: do("on C_Login hang", "lose device"), loses: true, met: hanging("C_Login", 1), end: do("release")},
		{name: "C_Initialize hangs", begin: do("on C_Initialize hang", "lose device"), loses: true, met: hanging("C_Initialize", 1),
			end: do("release")},
		{name: "a session cannot be opened or closed in time", begin: do("on C_OpenSession,C_CloseSession hang", "lose sessions"), refuses: true,
			end: do("release")},
	}
}

// networked is SoftHSM in a process of its own, which p11-kit serves over a socket.
func networked(t *testing.T) *outageGround {
	t.Helper()
	server, m := startKit(t)
	return &outageGround{dir: newStateDirOn(t, server.client), module: m, outages: func(int) []outage {
		back := func() { server.start(t) }
		return []outage{
			{name: "p11-kit server killed", begin: server.kill, loses: true, end: back},
			{name: "p11-kit server killed, and back when calls are refused", begin: server.kill, loses: true, refuses: true, end: back},
			{name: "p11-kit server stopped and continued", begin: server.freeze, refuses: true, end: server.thaw},
		}
	}}
}
