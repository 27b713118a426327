package audit

import (
	"errors"
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

func scanFile(f file, use func(line []byte) error) error {
	r, err := openFile(f)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since the directory was read
	}
	if err != nil {
		return err
	}
	defer r.Close()
	lines := newLineReader(r)
	for line, whole := lines.next(); line != nil; line, whole = lines.next() {
		if _, err := linkOf(line); err != nil || !whole {
			continue
		}
		if err := use(line); err != nil {
			return err
		}
	}
	return lines.err
}
