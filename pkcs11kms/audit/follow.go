package audit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Tail calls use with the newest so many records of a directory and, with follow, with each that is written from then on, until ctx ends,
// which is no error. Of each chain it looks at the newest file, and those that come.
func Tail(ctx context.Context, dir string, newest int, follow bool, use func(line []byte) error) error {
	t := &tail{dir: dir, at: map[int]position{}}
	var first []Found
	err := t.poll(func(line []byte) error {
		if f, ok := (Query{}).fits(line, 0, nil); ok {
			f.Line = bytes.Clone(line)
			first = append(first, f)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(first, func(x, y Found) int { return x.EventTime.Compare(y.EventTime) })
	for _, f := range first[max(0, len(first)-newest):] {
		if err := use(f.Line); err != nil {
			return err
		}
	}
	for tick := time.NewTicker(followInterval); follow; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
			if err := t.poll(use); err != nil {
				return err
			}
		}
	}
	return nil
}

// followInterval is how often Tail looks.
const followInterval = 200 * time.Millisecond

// tail is how far a directory was read.
type tail struct {
	dir string
	at  map[int]position // by chain
}

// position is a place in a file: the number of its first record, and bytes of what is in it.
type position struct {
	first uint64
	bytes int64
}

// poll calls use with what was written since the last time.
func (t *tail) poll(use func(line []byte) error) error {
	now, err := list(t.dir)
	if err != nil {
		return err
	}
	for _, number := range sortedKeys(now.files) {
		files := now.files[number]
		at, known := t.at[number]
		if !known {
			at.first = files[len(files)-1].first
		}
		for _, f := range files {
			switch {
			case f.first < at.first:
				continue
			case f.first > at.first:
				at = position{first: f.first}
			}
			if at.bytes, err = readFrom(f, at.bytes, use); err != nil {
				return err
			}
		}
		t.at[number] = at
	}
	return nil
}

// readFrom calls use with the lines of a file beyond a place, and returns the place after the last whole one.
func readFrom(f file, from int64, use func(line []byte) error) (int64, error) {
	r, err := openFile(f)
	if errors.Is(err, fs.ErrNotExist) {
		return from, nil
	}
	if err != nil {
		return from, err
	}
	defer r.Close()
	if seeker, ok := r.(*os.File); ok {
		_, err = seeker.Seek(from, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, r, from)
	}
	if err != nil {
		return from, err
	}
	lines := newLineReader(r)
	for line, whole := lines.next(); whole; line, whole = lines.next() {
		from += int64(len(line)) + 1
		if _, err := linkOf(line); err != nil {
			continue
		}
		if err := use(line); err != nil {
			return from, err
		}
	}
	return from, lines.err
}
