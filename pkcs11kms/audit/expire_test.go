package audit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// expiring is a log whose files expire: two chains, of which the first has a file for each of ten days.
type expiring struct {
	dir    string
	signer *signer
	at     time.Time
	log    *Log
	s      *sealing
}

func newExpiring(t *testing.T, o Options) *expiring {
	x := &expiring{dir: filepath.Join(t.TempDir(), "audit"), signer: newSigner(t), at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	o.Now = func() time.Time { return x.at }
	o.RotateAge = 24 * time.Hour
	x.log = mustOpen(t, x.dir, o)
	other := mustOpen(t, x.dir, Options{Now: o.Now})
	require.NoError(t, other.Record(t.Context(), use(0)))
	require.NoError(t, other.Close())
	x.s = x.log.newSealing(x.signer)
	for range 10 {
		x.day(t)
	}
	return x
}

// day records, seals and closes the file of a day, and has it compressed.
func (x *expiring) day(t *testing.T) {
	require.NoError(t, x.log.Record(t.Context(), use(1)))
	x.s.try(t.Context(), true)
	require.NoError(t, x.log.sealErrNow())
	x.at = x.at.Add(24 * time.Hour)
	x.log.Rotate()
	x.log.settled()
	x.log.packer.rest(x.log.o.Logger)
}

func (l *Log) sealErrNow() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sealErr
}

// later has what has expired removed, an hour after the last time.
func (x *expiring) later(t *testing.T) {
	x.s.expired = time.Time{}
	x.s.try(t.Context(), true)
	require.NoError(t, x.log.sealErrNow())
}

func (x *expiring) files(t *testing.T) int {
	found, err := list(x.dir)
	require.NoError(t, err)
	return len(found.files[1])
}

func (x *expiring) verify(t *testing.T) *Verification {
	v, err := VerifyDir(x.dir, x.signer.known(t))
	require.NoError(t, err)
	return v
}

// What is older than is to be kept goes, whole files of it, with a record: verification tells that from what was taken away. So it
// does when the record itself has expired, since the next one tells all of it again.
func TestFilesExpire(t *testing.T) {
	x := newExpiring(t, Options{KeepAge: 5 * 24 * time.Hour})
	for range 20 {
		x.later(t)
		x.day(t)
	}
	require.Equal(t, 7, x.files(t), "of the last five days, and what is written to")
	v := x.verify(t)
	require.Empty(t, v.Problems)
	require.Empty(t, v.Unsealed)
	require.Contains(t, strings.Join(v.Notes, "\n"), "have expired, as a seal tells")
	paths, err := filepath.Glob(filepath.Join(x.dir, "000001-*"))
	require.NoError(t, err)
	for _, path := range paths {
		require.NotContains(t, path, "-00000000000000000001.", "indexes go with their files")
	}

	// One more that goes without a record is missed.
	found, err := list(x.dir)
	require.NoError(t, err)
	require.NoError(t, os.Remove(found.files[1][0].name()))
	require.Contains(t, x.verify(t).Problems[0].Text, "a file is missing")
	before := x.files(t)
	x.later(t)
	require.Equal(t, before, x.files(t), "and the chain is left as it is")
	require.NotEmpty(t, x.verify(t).Problems, "what is missing has not become expired")
}

// More bytes than are to be kept: the oldest files go.
func TestFilesOfTooManyBytesExpire(t *testing.T) {
	x := newExpiring(t, Options{KeepBytes: 4000})
	x.later(t)
	found, err := list(x.dir)
	require.NoError(t, err)
	total := int64(0)
	for _, f := range append(found.files[1], found.files[2]...) {
		total += bytesOf(f)
	}
	require.Less(t, x.files(t), 11)
	require.Less(t, total, int64(4000+4000), "with the record of it, and its seal")
	require.Empty(t, x.verify(t).Problems)
}

// Nothing goes while it cannot be sealed, or the store does not know of the seal; and without being asked for nothing goes at all.
func TestNothingExpiresUnsealed(t *testing.T) {
	x := newExpiring(t, Options{})
	before := x.files(t)
	x.later(t)
	require.Equal(t, before, x.files(t))
	x.log.o.KeepAge = 24 * time.Hour
	x.signer.fail(os.ErrDeadlineExceeded)
	x.s.expired = time.Time{}
	require.Error(t, x.s.expire(t.Context()))
	require.Equal(t, before, x.files(t))
	x.signer.fail(nil)
	x.later(t)
	require.Less(t, x.files(t), before)
	require.Empty(t, x.verify(t).Problems)
}

// What tells of an expiry, and was made by somebody else, proves nothing: neither to who verifies nor to who removes files later.
func TestAnExpiryIsForged(t *testing.T) {
	x := newExpiring(t, Options{})
	found, err := list(x.dir)
	require.NoError(t, err)
	next, err := firstLink(found.files[1][1])
	require.NoError(t, err)
	gone := []Head{{Chain: next.chain, Seq: next.seq - 1, Hash: hexOf(next.prev)}}
	text := statement{gone: gone, time: x.at}.text()
	signature, err := newSigner(t).Sign(t.Context(), text)
	require.NoError(t, err)
	signature.Key = SealKeyID(x.signer.der())
	require.NoError(t, x.log.take(sealEvent(expiryName, text, signature)))
	require.NoError(t, os.Remove(found.files[1][0].name()))
	x.s.try(t.Context(), true)
	problems := x.verify(t).Problems
	require.GreaterOrEqual(t, len(problems), 2)
	require.Contains(t, problems[0].Text, "a file is missing")
	require.Contains(t, problems[1].Text, "the seal is not valid")
	x.log.o.KeepAge = 24 * time.Hour
	before := x.files(t)
	x.later(t)
	require.Equal(t, before, x.files(t))
	v, err := VerifyDir(x.dir, Known{})
	require.NoError(t, err)
	require.Empty(t, v.Problems, "without a key it is not to be told")
}
