package main

import (
	"bufio"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strings"
)

// tally counts what became of the lines that --check read.
type tally struct {
	fitting    int
	malformed  int
	unreadable int
	differing  int
}

// checkAll checks the lines of every file.
func (m *macker) checkAll(ctx context.Context, files []string) error {
	// A key or an algorithm that cannot be used is told once, and not as a malformed or failed line.
	probe, err := m.begin(ctx)
	if err != nil {
		return err
	}
	if err := probe.Close(); err != nil {
		return err
	}
	good := true
	for _, name := range files {
		counts, err := m.checkFile(ctx, name)
		if fatal(ctx, err) {
			return err
		}
		if err != nil {
			m.app.warn(err)
		}
		good = counts.report(m.app.stderr, displayName(name)) && err == nil && good
	}
	if !good {
		return exitError(exitRefused)
	}
	return nil
}

// checkFile checks the lines of one file. The file may be standard input.
func (m *macker) checkFile(ctx context.Context, name string) (tally, error) {
	var counts tally
	source, _, err := m.open(ctx, name)
	if err != nil {
		return counts, &unreadableError{name, err}
	}
	defer source.Close()
	lines := bufio.NewScanner(source)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		tag, file, ok := parseMACLine(lines.Text(), tagLengths[m.algorithm])
		if !ok {
			counts.malformed++
			continue
		}
		verdict, err := m.checkLine(ctx, tag, file, &counts)
		if err != nil {
			return counts, err
		}
		if err := m.app.printf("%s: %s\n", displayName(file), verdict); err != nil {
			return counts, err
		}
	}
	if err := lines.Err(); err != nil {
		return counts, &unreadableError{name, err}
	}
	return counts, nil
}

func (m *macker) checkLine(ctx context.Context, want []byte, name string, counts *tally) (verdict string, err error) {
	tag, err := m.file(ctx, name)
	var unreadable *unreadableError
	switch {
	case fatal(ctx, err):
		return "", err
	case errors.As(err, &unreadable):
		m.app.warn(err)
		counts.unreadable++
		return "FAILED open or read", nil
	case subtle.ConstantTimeCompare(tag, want) != 1:
		counts.differing++
		return "FAILED", nil
	}
	counts.fitting++
	return "OK", nil
}

// report prints the warnings of sha256sum and tells whether every line was good. Unlike there, a malformed line is a
// failure: it may be one whose MAC somebody damaged.
func (t tally) report(w io.Writer, name string) bool {
	if t.fitting+t.differing+t.unreadable == 0 {
		fmt.Fprintf(w, "pkcs11kms: %s: no properly formatted MAC lines found\n", name)
		return false
	}
	warn := func(count int, one, many string) {
		text := strings.ReplaceAll(many, "%", fmt.Sprint(count))
		if count == 1 {
			text = one
		}
		if count > 0 {
			fmt.Fprintf(w, "pkcs11kms: WARNING: %s\n", text)
		}
	}
	warn(t.malformed, "1 line is improperly formatted", "% lines are improperly formatted")
	warn(t.unreadable, "1 listed file could not be read", "% listed files could not be read")
	warn(t.differing, "1 computed MAC did NOT match", "% computed MACs did NOT match")
	return t.malformed+t.unreadable+t.differing == 0
}
