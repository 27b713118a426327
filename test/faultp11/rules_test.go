package faultp11_test

import (
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/test/faultp11"
)

// TestNothingIsChangedWithoutRules: a token is used as without the module, and the calls are counted.
func TestNothingIsChangedWithoutRules(t *testing.T) {
	h := newHost(t)
	s := h.login()
	k := h.key(s, "plain")
	mac := h.mustMAC(s, k, "message")
	o := h.other()
	os := o.login()
	assert.Equal(t, o.mustMAC(os, o.find(os, "plain")[0], "message"), mac, "another client computes the same")

	n := h.m.Counters()
	assert.Equal(t, faultp11.Counters{Calls: 1}, n["C_Login"])
	assert.Equal(t, faultp11.Counters{Calls: 2, Queries: 1}, n["C_Sign"], "miekg/pkcs11 asks for the length first")
	assert.NotContains(t, n, "C_Verify")
	h.m.Do("reset")
	assert.Empty(t, h.m.Counters())
	assert.Empty(t, h.m.Violations())
}

func TestFailures(t *testing.T) {
	for name, test := range map[string]struct {
		conditions []string
		fails      []bool // of six calls
	}{
		"always":       {nil, []bool{true, true, true, true, true, true}},
		"the first":    {[]string{"times=1"}, []bool{true, false, false, false, false, false}},
		"after some":   {[]string{"skip=2", "times=2"}, []bool{false, false, true, true, false, false}},
		"one in three": {[]string{"every=3"}, []bool{false, false, true, false, false, true}},
		"the second of three, twice": {[]string{"skip=1", "every=2", "times=2"},
			[]bool{false, false, true, false, true, false}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			s := h.login()
			k := h.key(s, "key")
			h.m.Fail("C_SignInit", 0x80000123, test.conditions...)
			for i, fails := range test.fails {
				_, err := h.mac(s, k, "message")
				if fails {
					requireRV(t, 0x80000123, err)
				} else {
					require.NoError(t, err, "call %d", i)
				}
			}
		})
	}
}

// TestFailedSignEndsItsOperation, as PKCS #11 says: the session can sign again.
func TestFailedSignEndsItsOperation(t *testing.T) {
	h := newHost(t)
	s := h.login()
	k := h.key(s, "key")
	h.m.Fail("C_Sign", pkcs11.CKR_DEVICE_ERROR, "times=1", "final")
	_, err := h.mac(s, k, "message")
	requireRV(t, pkcs11.CKR_DEVICE_ERROR, err)
	assert.Equal(t, faultp11.Counters{Calls: 2, Queries: 1, Faults: 1}, h.m.Counters()["C_Sign"])
	h.mustMAC(s, k, "message")
}

func TestLostReply(t *testing.T) {
	h := newHost(t)
	s := h.login()
	h.m.Fail("C_GenerateKey", pkcs11.CKR_DEVICE_ERROR, "after", "times=1")
	_, err := h.GenerateKey(s, generate, template("made"))
	requireRV(t, pkcs11.CKR_DEVICE_ERROR, err)
	require.Len(t, h.find(s, "made"), 1, "the key is there all the same")

	h.m.Rule("C_FindObjects empty times=1")
	require.Empty(t, h.find(s, "made"))
	require.Len(t, h.find(s, "made"), 1)
}

func TestDelay(t *testing.T) {
	h := newHost(t)
	s := h.login()
	h.m.Rule("C_GenerateRandom delay 60ms times=1")
	begin := time.Now()
	_, err := h.GenerateRandom(s, 8)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(begin), 60*time.Millisecond)
}

func TestHangs(t *testing.T) {
	hanging := func(n int) func(faultp11.Counters) bool {
		return func(c faultp11.Counters) bool { return c.Hanging == n && c.Inside == n }
	}
	for name, end := range map[string]func(h *host, rule *faultp11.Rule){
		"the rule is removed": func(_ *host, rule *faultp11.Rule) { rule.Remove() },
		"all is released":     func(h *host, _ *faultp11.Rule) { h.m.Do("release C_GenerateRandom") },
		"all is cleared":      func(h *host, _ *faultp11.Rule) { h.m.Clear() },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			sessions := []pkcs11.SessionHandle{h.session(), h.session()}
			rule := h.m.Rule("C_GenerateRandom hang")
			h.m.Fail("C_GenerateRandom", pkcs11.CKR_DEVICE_ERROR, "times=1")
			var wg sync.WaitGroup
			answers := make(chan error, 2)
			for _, s := range sessions {
				wg.Go(func() {
					_, err := h.GenerateRandom(s, 8)
					answers <- err
				})
			}
			h.m.Await("C_GenerateRandom", hanging(2))
			_, err := h.GetSessionInfo(sessions[0])
			require.NoError(t, err, "other functions answer")
			require.Empty(t, answers)
			end(h, rule)
			wg.Wait()
			if name != "all is cleared" {
				first, second := <-answers, <-answers
				assert.NotEqual(t, isRV(first, pkcs11.CKR_DEVICE_ERROR), isRV(second, pkcs11.CKR_DEVICE_ERROR), "the next rule follows")
			}
			h.m.Await("C_GenerateRandom", hanging(0))
		})
	}
}

func TestHangForATime(t *testing.T) {
	h := newHost(t)
	s := h.session()
	h.m.Rule("C_GenerateRandom hang 50ms")
	begin := time.Now()
	_, err := h.GenerateRandom(s, 8)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(begin), 50*time.Millisecond)
}

// TestHangAfterTheCall: what hangs is the reply alone.
func TestHangAfterTheCall(t *testing.T) {
	h := newHost(t)
	s, other := h.login(), h.session()
	rule := h.m.Rule("C_GenerateKey hang after")
	made := make(chan error, 1)
	go func() {
		_, err := h.GenerateKey(s, generate, template("made"))
		made <- err
	}()
	h.m.Await("C_GenerateKey", func(n faultp11.Counters) bool { return n.Hanging == 1 })
	require.Len(t, h.find(other, "made"), 1)
	rule.Remove()
	require.NoError(t, <-made)
}

// TestFinalizeWhileInside: the module tells of a host that finalizes it while another call is inside.
func TestFinalizeWhileInside(t *testing.T) {
	h := newHost(t)
	s := h.session()
	rule := h.m.Rule("C_GenerateRandom hang")
	answered := make(chan error, 1)
	go func() {
		_, err := h.GenerateRandom(s, 8)
		answered <- err
	}()
	h.m.Await("C_GenerateRandom", func(n faultp11.Counters) bool { return n.Hanging == 1 })
	require.NoError(t, h.Finalize())
	rule.Remove()
	requireRV(t, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, <-answered)
	assert.Equal(t, []string{"C_Finalize was called while C_GenerateRandom was inside"}, h.m.Violations())
	h.m.Do("reset")
	assert.Empty(t, h.m.Violations())
}

// TestSessionUsedTwice: a session is for one call at a time.
func TestSessionUsedTwice(t *testing.T) {
	h := newHost(t)
	s, other := h.session(), h.session()
	rule := h.m.Rule("C_GenerateRandom hang")
	answered := make(chan error, 1)
	go func() {
		_, err := h.GenerateRandom(s, 8)
		answered <- err
	}()
	h.m.Await("C_GenerateRandom", func(n faultp11.Counters) bool { return n.Hanging == 1 })
	_, err := h.GetSessionInfo(other)
	require.NoError(t, err)
	require.Empty(t, h.m.Violations())
	_, err = h.GetSessionInfo(s)
	require.NoError(t, err)
	rule.Remove()
	require.NoError(t, <-answered)
	_, err = h.GetSessionInfo(s)
	require.NoError(t, err)
	assert.Equal(t, []string{"C_GetSessionInfo was called while C_GenerateRandom was inside, by one session"}, h.m.Violations())
}

func TestResults(t *testing.T) {
	h := newHost(t)
	s := h.login()
	k := h.key(s, "key")
	right := h.mustMAC(s, k, "message")
	attribute := func() string {
		values, err := h.GetAttributeValue(s, k, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_ID, nil), pkcs11.NewAttribute(pkcs11.CKA_CLASS, nil)})
		require.NoError(t, err)
		require.Len(t, values[1].Value, 8, "the other attribute is as it was")
		return string(values[0].Value)
	}
	for rule, want := range map[string]string{
		"short 1":    right[:31],
		"short 99":   "",
		"long 2":     right + "\xA5\xA5",
		"flip":       right[:31] + string([]byte{right[31] ^ 1}),
		"value 0102": "\x01\x02",
	} {
		h.m.Rule("C_Sign " + rule + " times=1")
		assert.Equal(t, want, h.mustMAC(s, k, "message"), rule)
		assert.Equal(t, right, h.mustMAC(s, k, "message"), "after %s", rule)
	}
	for rule, want := range map[string]string{"short 1": "ke", "long 1": "key\xA5", "flip": "kex", "value 0102": "\x01\x02"} {
		h.m.Rule("C_GetAttributeValue " + rule + " times=1 attribute=CKA_ID")
		assert.Equal(t, want, attribute(), rule)
		assert.Equal(t, "key", attribute(), "after %s", rule)
	}
	h.m.Rule("C_FindObjects twice times=1")
	assert.Equal(t, []pkcs11.ObjectHandle{k, k}, h.find(s, "key"))
	assert.Equal(t, []pkcs11.ObjectHandle{k}, h.find(s, "key"))
	h.m.Rule("C_GetSlotList empty times=1")
	none, err := h.GetSlotList(true)
	require.NoError(t, err)
	assert.Empty(t, none)
	slots, err := h.GetSlotList(true)
	require.NoError(t, err)
	assert.Contains(t, slots, h.slot)
}

func TestRulesThatAreNone(t *testing.T) {
	h := newHost(t)
	for _, command := range []string{
		"on", "on C_Sign", "on C_Nothing fail CKR_CANCEL", "on C_Sign fail", "on C_Sign fail CKR_NONE", "on C_Sign wait", "on C_Sign delay x",
		"on C_Sign fail 1 times=x", "on C_Sign fail 1 often", "on C_Sign value 0", "on C_Sign empty", "remove 99", "lose", "lose nothing",
		"handles", "handles x", "sessions x", "token x", "token serial", "token serial=%0", "token flags=CKF_RNG", "token firmware=x",
		"pin-prefix", "hmac-types CKR_NONE", "login-free /nowhere", "release C_Nothing", "whatever",
	} {
		assert.Panics(t, func() { h.m.With(failing{h.t}).Do(command) }, command)
	}
	s := h.session()
	_, err := h.GenerateRandom(s, 8)
	require.NoError(t, err, "nothing has changed")
}

// failing turns the end of a test into a panic that can be looked for.
type failing struct{ faultp11.TB }

func (failing) Fatalf(format string, _ ...any) { panic(format) }

func TestManyCallsAtOnce(t *testing.T) {
	h := newHost(t)
	h.login()
	k := h.key(h.session(), "key")
	want := h.mustMAC(h.session(), k, "message")
	h.m.Do("reset")
	stop := make(chan struct{})
	var rules, calls sync.WaitGroup
	rules.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				h.m.Fail("C_SignInit", pkcs11.CKR_DEVICE_MEMORY, "every=7").Remove()
				h.m.Rule("C_Sign delay 1ms every=5").Remove()
			}
		}
	})
	const each = 200
	for range 8 {
		s := h.session()
		calls.Go(func() {
			for range each {
				mac, err := h.mac(s, k, "message")
				if !isRV(err, pkcs11.CKR_DEVICE_MEMORY) && assert.NoError(t, err) {
					assert.Equal(t, want, string(mac))
				}
			}
		})
	}
	calls.Wait()
	close(stop)
	rules.Wait()
	n := h.m.Counters()["C_SignInit"]
	assert.Equal(t, 8*each, n.Calls)
	assert.Zero(t, n.Inside)
	assert.Equal(t, 2*(n.Calls-n.Faults), h.m.Counters()["C_Sign"].Calls)
}
