package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// handedOver is what has the key of one signer followed by that of another.
func handedOver(epoch uint32, from, to *signer) *Handover {
	key := func(s *signer) HandoverKey { return HandoverKey{SealKeyID(s.der()), s.der(), s.Sign} }
	return &Handover{Epoch: epoch, From: key(from), To: key(to), Check: from.Check, Done: func(context.Context) error { return nil }}
}

// relayed is a log of three chains whose key was followed by others: two processes that seal, and a command that does not.
type relayed struct {
	dir     string
	signers []*signer
	logs    []*Log
	seals   []*sealing // of the first two
	calls   int
}

func newRelayed(t *testing.T) *relayed {
	r := &relayed{dir: filepath.Join(t.TempDir(), "audit"), signers: []*signer{newSigner(t)}}
	for i := range 3 {
		r.logs = append(r.logs, mustOpen(t, r.dir, Options{}))
		if i < 2 {
			r.seals = append(r.seals, r.logs[i].newSealing(r.signers[0]))
		}
	}
	r.use(t)
	return r
}

// use has a record in each chain, and both processes seal.
func (r *relayed) use(t *testing.T) {
	for _, l := range r.logs {
		r.calls++
		require.NoError(t, l.Record(t.Context(), use(r.calls)))
	}
	for _, s := range r.seals {
		r.seal(t, s)
	}
}

func (r *relayed) seal(t *testing.T, s *sealing) {
	s.try(t.Context(), true)
	require.NoError(t, s.l.sealErrNow())
}

// follow has the newest key followed by one more, as a process tells that does not seal.
func (r *relayed) follow(t *testing.T) {
	old, next := r.signers[len(r.signers)-1], newSigner(t)
	r.signers = append(r.signers, next)
	r.handOver(t, r.logs[2], handedOver(uint32(len(r.signers)), old, next))
	for _, s := range r.seals {
		s.by = next
	}
}

// handOver writes a handover as somebody does who does not ask whether there is one.
func (r *relayed) handOver(t *testing.T, l *Log, over *Handover) {
	require.NoError(t, l.newSealing(r.signers[0]).seal(t.Context(), addition{over: over}))
}

func (r *relayed) verify(t *testing.T, by ...*signer) *Verification {
	keys := SealKeys{}
	for _, s := range by {
		keys[SealKeyID(s.der())] = s.key.Public()
	}
	v, err := VerifyDir(r.dir, Known{Check: keys.Check, MustBeSealed: true})
	require.NoError(t, err)
	return v
}

// late has a process leave a seal that it has signed by the key before the newest one.
func (r *relayed) late(t *testing.T, s *sealing) {
	r.calls++
	require.NoError(t, s.l.Record(t.Context(), use(r.calls)))
	by := s.by
	s.by, s.inOffice = r.signers[len(r.signers)-2], true
	r.seal(t, s)
	s.by = by
}

func problems(v *Verification) string { return fmt.Sprint(v.Problems) }

// Whoever has the public key of the first key follows all handovers; whoever has a later one alone verifies what came after it, and is told
// of what was before.
func TestHandoversAreFollowed(t *testing.T) {
	r := newRelayed(t)
	r.use(t)
	r.follow(t)
	r.use(t)
	r.follow(t)
	r.use(t)
	for i, s := range r.signers {
		v := r.verify(t, s)
		require.Empty(t, v.Problems, "key %d", i+1)
		require.Empty(t, v.Unsealed)
		if i == 0 {
			require.Equal(t, 4*2+2, v.Seals, "seals and handovers")
			require.Empty(t, v.Notes)
			continue
		}
		require.Contains(t, strings.Join(v.Notes, "\n"), "seals from before a handover are by keys that were not given, and do not count: ")
		require.Less(t, v.Seals, 4*2+2)
	}
	require.Empty(t, r.verify(t, r.signers...).Notes)
	require.Contains(t, problems(r.verify(t, newSigner(t))), "it is by a key that was not given")

	// What was there at a handover is held by the new key, too.
	found, err := list(r.dir)
	require.NoError(t, err)
	path := found.files[2][0].name()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, bytes.Replace(text, []byte("1.08"), []byte("1.09"), 1), 0o600))
	require.NotEmpty(t, r.verify(t, r.signers[2]).Problems)
	lines := bytes.SplitAfter(bytes.Replace(text, []byte("1.08"), []byte("1.09"), 1), []byte("\n"))
	require.NoError(t, os.WriteFile(path, bytes.Join(rebuilt(t, lines[:len(lines)-1]), nil), 0o600))
	require.Contains(t, problems(r.verify(t, r.signers[2])), "it is not the record that the seal")
}

// A process that was signing while the key was followed leaves a seal that does not count, and no fault.
func TestASealThatIsLateForItsHandover(t *testing.T) {
	r := newRelayed(t)
	r.follow(t)
	r.late(t, r.seals[0])
	v := r.verify(t, r.signers[0])
	require.Empty(t, v.Problems)
	require.Contains(t, strings.Join(v.Notes, "\n"), "seals were made while their key was being followed by another one, and do not count: 1")
	require.Equal(t, uint64(1), v.Unsealed[0].Records, "what it names is not sealed by it")
	r.use(t)
	v = r.verify(t, r.signers[0])
	require.Empty(t, v.Problems)
	require.Empty(t, v.Unsealed)
}

// Whoever has the use of the old key can seal nothing that came after the handover: in no chain.
func TestTheOldKeySealsNothingAfterItsHandover(t *testing.T) {
	for name, act := range map[string]func(r *relayed){
		"a second one":                       func(r *relayed) { r.late(t, r.seals[1]); r.late(t, r.seals[1]) },
		"after a seal by the new key":        func(r *relayed) { r.use(t); r.late(t, r.seals[1]) },
		"in the chain of the handover":       func(r *relayed) { r.late(t, r.logs[2].newSealing(r.signers[1])) },
		"after a seal by a still later key":  func(r *relayed) { r.follow(t); r.use(t); r.signers = r.signers[:2]; r.late(t, r.seals[0]) },
		"twice, in a chain that is new then": func(r *relayed) { r.late(t, r.newChain(t)); r.late(t, r.newest(t)) },
	} {
		r := newRelayed(t)
		r.follow(t)
		act(r)
		for _, given := range [][]*signer{r.signers[:1], r.signers[1:2], r.signers} {
			if len(given) == 1 && given[0] != r.signers[0] { // of whose seals nothing is known but that they come after the handover
				require.Contains(t, problems(r.verify(t, given...)), "it is by a key that was not given", name)
				continue
			}
			require.Contains(t, problems(r.verify(t, given...)), "the seal is not valid: its key was followed by another one, in 000003-", name)
		}
	}
}

func (r *relayed) newChain(t *testing.T) *sealing {
	l := mustOpen(t, r.dir, Options{})
	r.logs = append(r.logs, l)
	return l.newSealing(r.signers[1])
}

func (r *relayed) newest(t *testing.T) *sealing {
	return r.logs[len(r.logs)-1].newSealing(r.signers[1])
}

// A handover that is not by both keys hands nothing over, and of two by one key only one does.
func TestForgedHandovers(t *testing.T) {
	next, forger := newSigner(t), newSigner(t)
	forged := map[string]func(h *Handover){
		"by somebody who has not the old key": func(h *Handover) {
			old := h.From.ID
			h.From.Sign = func(ctx context.Context, text []byte) (Signature, error) {
				s, err := forger.Sign(ctx, text)
				s.Key = old
				return s, err
			}
		},
		"by his own key": func(h *Handover) { h.From.Sign = forger.Sign },
		"to a key that somebody has not": func(h *Handover) {
			h.To = HandoverKey{SealKeyID(next.der()), next.der(), forger.Sign}
		},
		"in the name of another key": func(h *Handover) { h.From.ID = SealKeyID(next.der()) },
	}
	for name, forge := range forged {
		r := newRelayed(t)
		old := r.signers[0]
		h := handedOver(2, old, forger)
		forge(h)
		r.handOver(t, r.logs[2], h)
		r.seals[0].by, r.seals[1].by = forger, forger
		r.use(t)
		v := r.verify(t, old)
		require.GreaterOrEqual(t, len(v.Problems), 2, name)
		require.Contains(t, problems(v), "it is by a key that was not given", name)
		require.Equal(t, name == "to a key that somebody has not", strings.Contains(problems(v), "it names a key that has not signed it"), name)
		require.NotContains(t, problems(r.verify(t, old, forger)), "it is by a key that was not given", "the seals alone are right")
	}

	// Who has the use of the old key hands over once more, to a key of his own, before or after.
	for _, first := range []bool{true, false} {
		r := newRelayed(t)
		stolen := func() {
			r.handOver(t, r.logs[1], handedOver(2, r.signers[0], forger))
		}
		old := r.signers[0]
		if first {
			stolen()
		}
		r.follow(t)
		if !first {
			stolen()
		}
		r.use(t)
		require.Contains(t, problems(r.verify(t, old)), "its key was followed by another one already, in ")
		v := r.verify(t, r.signers...)
		require.Len(t, v.Problems, 1, "whoever has the new key knows which")
		require.Contains(t, problems(v), "its key was followed by another one already, in 000003-")
	}
}

// What the old key tells after its handover takes no file away.
func TestTheOldKeyLetsNothingExpireAfterItsHandover(t *testing.T) {
	x := newExpiring(t, Options{})
	next := newSigner(t)
	next.over = handedOver(2, x.signer, next)
	require.NoError(t, x.log.HandOver(t.Context(), next))
	next.over = nil
	found, err := list(x.dir)
	require.NoError(t, err)
	second, err := firstLink(found.files[1][1])
	require.NoError(t, err)
	said := statement{gone: []Head{{Chain: second.chain, Seq: second.seq - 1, Hash: hexOf(second.prev)}}, time: x.at}
	signature, err := x.signer.Sign(t.Context(), said.text())
	require.NoError(t, err)
	other := mustOpen(t, x.dir, Options{})
	require.NoError(t, other.take(sealEvent(expiryName, said.text(), signature)))
	require.NoError(t, os.Remove(found.files[1][0].name()))
	x.s.by = next
	x.log.o.KeepAge = 24 * time.Hour
	before := x.files(t)
	x.later(t)
	require.Equal(t, before, x.files(t), "nor does the new one say so then")
	require.Contains(t, problems(x.verify(t)), "a file is missing")
}

// What has expired before a handover is known after it, by either key.
func TestAHandoverTellsWhatHasExpired(t *testing.T) {
	x := newExpiring(t, Options{KeepAge: 3 * 24 * time.Hour})
	x.later(t)
	left := x.files(t)
	next := newSigner(t)
	next.over = handedOver(2, x.signer, next)
	require.NoError(t, x.log.HandOver(t.Context(), next))
	next.over = nil
	for _, s := range []*signer{x.signer, next} {
		v, err := VerifyDir(x.dir, Known{Check: s.keys(t).Check, MustBeSealed: true})
		require.NoError(t, err)
		require.Empty(t, v.Problems)
	}
	x.s.by = next
	x.day(t)
	x.day(t)
	x.later(t)
	require.LessOrEqual(t, x.files(t), left, "more expires, which the new key knows of")
	require.Empty(t, x.verify(t).Problems)
}

// A log that is sealed tells of the next key by itself before it seals by that, and tries again where it cannot.
func TestALogTellsOfTheNextKey(t *testing.T) {
	old, next := newSigner(t), newSigner(t)
	l := mustOpen(t, filepath.Join(t.TempDir(), "audit"), often)
	var done atomic.Int64
	over := handedOver(2, old, next)
	over.Done = func(context.Context) error {
		next.mu.Lock()
		defer next.mu.Unlock()
		next.over = nil
		done.Add(1)
		return nil
	}
	next.over = over
	old.fail(errors.New("the token is gone"))
	require.NoError(t, l.Record(t.Context(), use(1)))
	stop := l.SealBy(next)
	require.Eventually(t, func() bool { return l.Stats().SealFailures > 1 }, time.Minute, time.Millisecond)
	require.Zero(t, l.Stats().Seals, "nothing is sealed by a key of which nobody was told")
	old.fail(nil)
	require.Eventually(t, func() bool { return done.Load() == 1 && l.Stats().Seals >= 1 }, time.Minute, time.Millisecond)
	require.NoError(t, l.Record(t.Context(), use(2)))
	stop(t.Context())
	require.NoError(t, l.Close())
	require.EqualValues(t, 1, done.Load())
	v, err := VerifyDir(l.dir, Known{Check: old.keys(t).Check, MustBeSealed: true})
	require.NoError(t, err)
	require.Empty(t, v.Problems)
	require.Empty(t, v.Unsealed)
}

// The line of a handover is read in one form alone.
func TestHandoverText(t *testing.T) {
	old, next := newSigner(t), newSigner(t)
	pair := statement{next: &succession{2, SealKeyID(old.der()), SealKeyID(next.der()), next.der()}, time: forgedTime}
	mac := statement{next: &succession{3, "00ff", "00fe", nil}, time: forgedTime}
	for _, s := range []statement{pair, mac} {
		read, err := parseStatement(string(s.text()))
		require.NoError(t, err)
		require.Equal(t, s.next, read.next)
	}
	text := string(pair.text())
	for _, wrong := range []string{strings.Replace(text, "handover 2", "handover 02", 1), text + text[strings.Index(text, "handover"):],
		strings.Replace(text, SealKeyID(next.der()), SealKeyID(old.der()), 1), strings.Replace(text, "handover 2 ", "handover 2  ", 1),
		strings.Replace(string(mac.text()), " -", "", 1), strings.Replace(string(mac.text()), " -", " AAAA", 1)} {
		_, err := parseStatement(wrong)
		require.Error(t, err, wrong)
	}
}

// A store of before a rotation knows the old key alone, whose seals would be refused: nothing is sealed by it, nor handed over to a third
// key.
func TestAStoreOfBeforeARotationDoesNotSeal(t *testing.T) {
	r := newRelayed(t)
	r.follow(t)
	r.use(t)
	restored := mustOpen(t, r.dir, Options{})
	require.NoError(t, restored.Record(t.Context(), use(1)))
	s := restored.newSealing(r.signers[0])
	s.try(t.Context(), true)
	require.ErrorContains(t, restored.sealErrNow(), "was followed by one that the store does not know")
	require.Contains(t, restored.Warning(), "cannot be sealed")
	third := newSigner(t)
	third.over = handedOver(2, r.signers[0], third)
	require.ErrorContains(t, restored.HandOver(t.Context(), third), "was followed by one that the store does not know")
	require.Empty(t, r.verify(t, r.signers[0]).Problems)
	again := r.signers[1]
	again.over = handedOver(2, r.signers[0], again)
	require.NoError(t, restored.HandOver(t.Context(), again), "the same once more")
	require.Empty(t, r.verify(t, r.signers[0]).Problems)
}
