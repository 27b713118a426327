package audit

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// LastSeal is what a token keeps of the seals of a log, so that a machine that was put back to an earlier time is found out: neither log
// nor store tells of that.
type LastSeal struct {
	Time  time.Time
	Store string // its id, in hexadecimal
	Epoch uint32 // of the store's seals
	Head  Head   // a record that was sealed, and so was on the disk; the zero Head: none is known in this epoch
}

const lastSealTitle = "pkcs11kms audit last seal 1"

// Text is what the token keeps: lines with a line end, no more than 256 bytes.
func (s LastSeal) Text() []byte {
	b := fmt.Appendf(nil, "%s\n%s\n%s %d\n", lastSealTitle, s.Time.UTC().Format(time.RFC3339), s.Store, s.Epoch)
	if s.Head.Chain != "" {
		b = s.Head.append(b)
	}
	return b
}

// ParseLastSeal reads a Text.
func ParseLastSeal(text []byte) (s LastSeal, err error) {
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) < 3 || len(lines) > 4 || lines[0] != lastSealTitle {
		return s, errors.New("it is no text of a last seal")
	}
	if s.Time, err = time.Parse(time.RFC3339, lines[1]); err != nil {
		return s, err
	}
	if _, err := fmt.Sscanf(lines[2], "%s %d", &s.Store, &s.Epoch); err != nil {
		return s, err
	}
	if len(lines) == 4 {
		if s.Head, err = parseHead(lines[3]); err != nil {
			return s, err
		}
	}
	if string(s.Text()) != string(text) {
		return s, errors.New("it is not written as last seals are")
	}
	return s, nil
}

// ErrNotHeld is what the errors of Holds are that say so.
var ErrNotHeld = errors.New("the log is older than it was")

type notHeldError string

func notHeld(format string, args ...any) error { return notHeldError(fmt.Sprintf(format, args...)) }

func (e notHeldError) Error() string        { return string(e) }
func (e notHeldError) Is(target error) bool { return target == ErrNotHeld }

// Holds returns why the log does not hold a record that is known to have been on its disk; nil where it does, or where what was there has
// expired.
func (l *Log) Holds(h Head) error { return Holds(l.dir, h) }

// TokenSeal is Options.TokenSeal.
func (l *Log) TokenSeal() bool { return l.o.TokenSeal() }

// TokenSeal tells whether the last seal is to be kept in the token. Where nothing waits for the disk a power cut can make the log shorter
// than the token knows it.
func (o Options) TokenSeal() bool { return !o.NoTokenSeal && o.Fsync != FsyncOff }

// Holds is Log.Holds for a directory.
func Holds(dir string, h Head) error {
	found, err := list(dir)
	if err != nil {
		return err
	}
	for _, number := range found.numbers() {
		files := found.files[number]
		if len(files) == 0 {
			continue
		}
		end, err := endOf(files)
		if err != nil {
			return err
		}
		if end.place.chain == h.Chain {
			return holds(files, end.place.seq, h)
		}
	}
	return notHeld("the log has no chain %s, which had %d records", h.Chain, h.Seq)
}

func holds(files []file, last uint64, h Head) error {
	if last < h.Seq {
		return notHeld("the chain %s of the log ends with record %d, and had %d", h.Chain, last, h.Seq)
	}
	if files[0].first > h.Seq {
		return nil // it has expired
	}
	for len(files) > 1 && files[1].first <= h.Seq {
		files = files[1:]
	}
	var other error
	err := scanFile(files[0], func(line []byte) error {
		at, err := linkOf(line)
		if err != nil || at.seq < h.Seq {
			return err
		}
		if at.seq == h.Seq && hexOf(hashOf(line)) != h.Hash {
			other = notHeld("record %d of chain %s of the log is another one", h.Seq, h.Chain)
		}
		return errEnough
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return errors.Join(other, err)
}
