package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What a token keeps is read in the one form that it is written in, and is short.
func TestTextOfALastSeal(t *testing.T) {
	head := Head{Chain: "0123456789abcdef", Seq: 1<<64 - 1, Hash: strings.Repeat("ab", 32)}
	for _, s := range []LastSeal{
		{Time: time.Unix(1e9, 0).UTC(), Store: strings.Repeat("0a", 16), Epoch: 1<<32 - 1, Head: head},
		{Time: time.Unix(1e9, 0).UTC(), Store: "0a", Epoch: 2},
	} {
		text := s.Text()
		require.LessOrEqual(t, len(text), 256)
		read, err := ParseLastSeal(text)
		require.NoError(t, err)
		require.Equal(t, s, read)
		for _, wrong := range []string{"", "x" + string(text), string(text) + "\n", string(text[:len(text)-1]),
			string(text) + string(head.append(head.append(nil)))} {
			_, err := ParseLastSeal([]byte(wrong))
			require.Error(t, err, "%q", wrong)
		}
	}
}

// headAt is the head of a chain at a record.
func headAt(t *testing.T, dir string, seq uint64) (h Head) {
	t.Helper()
	require.NoError(t, Scan(dir, func(line []byte) error {
		at, err := linkOf(line)
		if at.seq == seq {
			h = Head{Chain: at.chain, Seq: seq, Hash: hexOf(hashOf(line))}
		}
		return err
	}))
	require.Equal(t, seq, h.Seq)
	return h
}

// A log holds each record that was written to it, in whatever file, until it expires; and none of a chain that is shorter, another one or
// gone.
func TestALogHoldsWhatItHad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{})
	for i := range 30 {
		require.NoError(t, l.Record(t.Context(), use(i)))
		if i%10 == 9 {
			l.Rotate()
		}
	}
	for _, seq := range []uint64{1, 10, 11, 25, 30} {
		h := headAt(t, dir, seq)
		require.NoError(t, l.Holds(h))
		h.Hash = strings.Repeat("0", 64)
		require.ErrorIs(t, l.Holds(h), ErrNotHeld)
		require.EqualError(t, l.Holds(h), fmt.Sprintf("record %d of chain %s of the log is another one", seq, h.Chain))
	}
	h := headAt(t, dir, 30)
	require.NoError(t, l.Record(t.Context(), use(31)))
	require.NoError(t, l.Holds(h), "it has grown")
	late := h
	late.Seq = 32
	require.ErrorIs(t, l.Holds(late), ErrNotHeld)
	require.EqualError(t, l.Holds(late), "the chain "+h.Chain+" of the log ends with record 31, and had 32")
	early := headAt(t, dir, 5)
	require.NoError(t, l.Close())
	files, err := filepath.Glob(filepath.Join(dir, "000001-*1.jsonl*"))
	require.NoError(t, err)
	require.NoError(t, os.Remove(files[0]))
	require.NoError(t, Holds(dir, early), "it may have expired")
	require.NoError(t, Holds(dir, h))
	h.Chain = "fedcba9876543210"
	require.ErrorIs(t, Holds(dir, h), ErrNotHeld)
	require.ErrorIs(t, Holds(t.TempDir(), early), ErrNotHeld)
}

// What is kept outside is on the disk and known to the store before, each minute and at the end; that it cannot be is no failure.
func TestKeptOutside(t *testing.T) {
	s := newMadeStore(t)
	require.NoError(t, s.l.Record(t.Context(), use(1)))
	s.sealing.try(t.Context(), false)
	require.Empty(t, s.signer.outside, "the store does not know of it")
	s.sealing.try(t.Context(), true)
	require.Equal(t, []Head{headAt(t, s.dir, 1)}, s.signer.outside)
	require.EqualValues(t, 1, s.signer.kept[s.signer.outside[0].Chain])
	require.NoError(t, s.l.Holds(s.signer.outside[0]))

	s.signer.noKeep = errors.New("the store is away")
	require.NoError(t, s.l.Record(t.Context(), use(2)))
	s.sealing.try(t.Context(), true)
	require.Len(t, s.signer.outside, 1)
	s.signer.noKeep, s.signer.noOutside = nil, errors.New("the token is away")
	s.sealing.try(t.Context(), true)
	require.Len(t, s.signer.outside, 2)
	require.Greater(t, s.signer.outside[1].Seq, uint64(1))
	require.Empty(t, s.l.Warning())
}

// A file may be compressed after the directory was read and before it is opened.
func TestALogHoldsWhatIsCompressedMeanwhile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{})
	for i := range 10 {
		require.NoError(t, l.Record(t.Context(), use(i)))
	}
	h := headAt(t, dir, 10)
	found, err := list(dir)
	require.NoError(t, err)
	files := found.files[1]
	require.Len(t, files, 1)
	require.False(t, files[0].packed)
	l.Rotate()
	require.NoError(t, l.Record(t.Context(), use(11)))
	require.Eventually(t, func() bool {
		_, err := os.Stat(files[0].name())
		return errors.Is(err, fs.ErrNotExist)
	}, time.Minute, time.Millisecond)
	end, err := endOf(files)
	require.NoError(t, err)
	require.Equal(t, h.Hash, hexOf(end.place.prev))
	require.NoError(t, l.Close())
}
