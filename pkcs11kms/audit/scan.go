package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
