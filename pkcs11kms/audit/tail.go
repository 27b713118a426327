package audit

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// tailBytes is how much of a file is looked at before it is continued: more than the longest record.
const tailBytes = 1 << 20

// chainEnd is how a chain ends: the place of its last record, with its hash as prev, and what is in the last file.
type chainEnd struct {
	place link
	size  int64     // of the last file, with a line end after what is torn
	torn  []byte    // the line that has no end
	last  []byte    // the last record; nil when there is none
	began time.Time // when the last file was begun, as its first record tells
	file  string    // which has the last record
}

// endOf reads the end of a chain from its files, of which there is one at least.
func endOf(files []file) (end chainEnd, err error) {
	newest := files[len(files)-1]
	tail, size, err := readTail(newest)
	if err != nil {
		return end, err
	}
	whole := tail[:bytes.LastIndexByte(tail, '\n')+1]
	end.torn = bytes.Clone(tail[len(whole):])
	end.size, end.began, end.file = size, time.Now(), newest.name()
	if len(end.torn) > 0 {
		end.size++
	}
	if at, ok := firstTime(newest); ok {
		end.began = at
	}
	if len(whole) == 0 {
		if int64(len(end.torn)) < size {
			return end, fmt.Errorf("%w: %q ends with no record", errBroken, newest.name())
		}
		return end.before(files)
	}
	lines := bytes.Split(whole[:len(whole)-1], []byte{'\n'})
	complete := size == int64(len(tail)) // and not a part of the file
	return end, end.check(lines, complete, newest)
}

// before takes the last record of the files before the last one, in which there is none.
func (end chainEnd) before(files []file) (chainEnd, error) {
	newest := files[len(files)-1]
	if len(files) == 1 {
		if newest.first != 1 {
			return end, fmt.Errorf("%w: %q has no record, and there is no file before it", errBroken, newest.name())
		}
		return end, nil
	}
	earlier, err := endOf(files[:len(files)-1])
	if err == nil && (len(earlier.torn) > 0 || earlier.place.seq+1 != newest.first) {
		err = fmt.Errorf("%w: what comes before %q does not fit", errBroken, newest.name())
	}
	end.place, end.last, end.file = earlier.place, earlier.last, earlier.file
	return end, err
}

// check holds that the last lines of a file follow each other, and takes the place of the last one.
func (end *chainEnd) check(lines [][]byte, complete bool, f file) error {
	if !complete {
		lines = lines[1:] // which may be a part of one
	}
	var before []byte
	var at link
	for i, line := range lines {
		if i+1 < len(lines) && tells(lines[i+1], line) {
			continue
		}
		next, err := linkOf(line)
		switch {
		case err != nil:
			return fmt.Errorf("%w: %q: %w", errBroken, f.name(), err)
		case before != nil && (next.chain != at.chain || next.seq != at.seq+1 || next.prev != hashOf(before)):
			return fmt.Errorf("%w: %q: record %d does not follow the one before it", errBroken, f.name(), next.seq)
		case next.seq < f.first, complete && before == nil && next.seq != f.first:
			return fmt.Errorf("%w: %q: record %d is not of this file", errBroken, f.name(), next.seq)
		}
		before, at = line, next
	}
	if before == nil {
		return fmt.Errorf("%w: %q has no record at its end", errBroken, f.name())
	}
	end.last = bytes.Clone(before)
	end.place = link{chain: at.chain, seq: at.seq, prev: hashOf(before)}
	return nil
}

// firstTime is when the first record of a file was made, as it says.
func firstTime(f file) (at time.Time, ok bool) {
	r, err := openFile(f)
	if err != nil {
		return at, false
	}
	defer r.Close()
	begin := make([]byte, 4<<10)
	n, err := io.ReadFull(r, begin)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return at, false
	}
	return timeOf(begin[:n])
}

// tells reports whether a line is the record that tells of a torn line.
func tells(line, torn []byte) bool {
	if !bytes.Contains(line, []byte(tornRecord)) {
		return false
	}
	var record struct {
		EventName, EventSource, EventType string
		AdditionalEventData               struct {
			Bytes  int
			SHA256 string
		}
	}
	if json.Unmarshal(line, &record) != nil {
		return false
	}
	told := record.AdditionalEventData
	return record.EventName == tornRecord && record.EventSource == ownService && record.EventType == ServiceEvent.String() &&
		told.Bytes == len(torn) && told.SHA256 == hexOf(hashOf(torn))
}

// readTail reads the end of a file, a whole one where it is short or compressed. size is that of what is in it.
func readTail(f file) (tail []byte, size int64, err error) {
	r, f, err := openNamed(f)
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	if f.packed {
		unpacked, err := gzip.NewReader(r)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %q: %w", errBroken, f.name(), err)
		}
		if tail, err = io.ReadAll(unpacked); err != nil {
			err = fmt.Errorf("%w: %q: %w", errBroken, f.name(), err)
		}
		return tail, int64(len(tail)), err
	}
	info, err := r.Stat()
	if err != nil {
		return nil, 0, err
	}
	from := max(0, info.Size()-tailBytes)
	tail = make([]byte, info.Size()-from)
	if _, err := r.ReadAt(tail, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	return tail, info.Size(), nil
}
