package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Scan calls use with the line of each record of a directory, chain by chain, from the oldest on. A line is good until use returns. What is
// half written is left out; VerifyDir tells what else is wrong.
func Scan(dir string, use func(line []byte) error) error {
	found, err := list(dir)
	if err != nil {
		return err
	}
	for _, number := range found.numbers() {
		for _, f := range found.files[number] {
			if err := scanFile(f, use); err != nil {
				return err
			}
		}
	}
	return nil
}

// scanFile calls use with the lines of a file that are records.
func scanFile(f file, use func(line []byte) error) error {
	return fileLines(f, func(line []byte) error {
		if _, err := linkOf(line); err != nil {
			return nil
		}
		return use(line)
	})
}

// fileLines is eachLine for a file. One that was removed since the directory was read has none.
func fileLines(f file, use func(line []byte) error) error {
	r, err := openFile(f)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	if err := eachLine(r, use); err != nil {
		return fmt.Errorf("%q: %w", f.name(), err)
	}
	return nil
}

// eachLine calls use with the lines of a reader that have an end. A line is good until use returns.
func eachLine(r io.Reader, use func(line []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		end := bytes.IndexByte(data, '\n')
		switch {
		case end >= 0:
			return end + 1, data[:end:end], nil
		case atEOF:
			return len(data), nil, nil
		}
		return 0, nil, nil
	})
	for lines.Scan() {
		if err := use(lines.Bytes()); err != nil {
			return err
		}
	}
	return lines.Err()
}

// pieceBytes is how much of a file is read backwards at a time.
const pieceBytes = 1 << 20

// linesBackwards is fileLines from the last line to the first, where the file is not compressed meanwhile: a search is through with the
// newest ones, and looks at no more than the time of the others.
func linesBackwards(f file, use func(line []byte) error) error {
	r, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return fileLines(f, use)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return err
	}
	ended := false // a line end follows what is in rest
	var rest []byte
	for at := info.Size(); at > 0; {
		n := min(at, pieceBytes)
		at -= n
		piece := make([]byte, n, n+int64(len(rest)))
		if _, err := r.ReadAt(piece, at); err != nil {
			return fmt.Errorf("%q: %w", f.path, err)
		}
		piece = append(piece, rest...)
		for end := bytes.LastIndexByte(piece, '\n'); end >= 0; end = bytes.LastIndexByte(piece, '\n') {
			if ended {
				if err := use(piece[end+1:]); err != nil {
					return err
				}
			}
			piece, ended = piece[:end], true
		}
		if rest = piece; len(rest) > maxLine {
			return fmt.Errorf("%q: %w", f.path, bufio.ErrTooLong)
		}
	}
	if ended && len(rest) > 0 {
		return use(rest)
	}
	return nil
}
