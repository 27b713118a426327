package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func itoa(n int) string { return fmt.Sprint(n) }

// unread returns how many bytes wait in a pipe.
func unread(t *testing.T, f *os.File) int {
	t.Helper()
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
	require.NoError(t, err)
	return n
}

// terminal opens a pseudo-terminal and returns the side that programs write to.
func terminal(t *testing.T) *os.File {
	t.Helper()
	controller, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { controller.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(controller.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(controller.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	side, err := os.OpenFile("/dev/pts/"+itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { side.Close() })
	return side
}

func TestProgressIsShownWhereItHelps(t *testing.T) {
	tty := terminal(t)
	pipe := &bytes.Buffer{}
	for _, tc := range []struct {
		name   string
		stdin  io.Reader
		stderr io.Writer
		file   string
		size   int64
		want   bool
	}{
		{"long file", pipe, tty, "f", longFile, true},
		{"short file", pipe, tty, "f", longFile - 1, false},
		{"standard input", pipe, tty, standardInput, -1, true},
		{"typed input", tty, tty, standardInput, -1, false},
		{"device", tty, tty, "/dev/fifo", -1, true},
		{"no terminal", pipe, pipe, "f", longFile, false},
	} {
		a := &app{stdin: tc.stdin, stderr: tc.stderr}
		shown := a.progress(tc.file, tc.size) != io.WriteCloser(silent{})
		assert.Equal(t, tc.want, shown, tc.name)
	}
}

// The making of indexes shows a bar on a terminal, where there is much to read.
func TestProgressOfIndexes(t *testing.T) {
	require.Nil(t, (&app{stderr: &bytes.Buffer{}}).indexing())
	tty := terminal(t)
	show := (&app{stderr: tty}).indexing()
	show(1, longFile-1)
	written, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCOUTQ)
	require.NoError(t, err)
	require.Zero(t, written)
	show(longFile/2, longFile)
	show(longFile, longFile)
}

func TestBarShowsNameAndShare(t *testing.T) {
	var out bytes.Buffer
	b := newBar(&out, "a\x1b[31mred", 200)
	n, err := b.Write(make([]byte, 100))
	require.NoError(t, err)
	assert.Equal(t, 100, n)
	assert.Contains(t, out.String(), `"a\x1b[31mred"`, "control sequences of a name are quoted")
	assert.Contains(t, out.String(), "50%")
	require.NoError(t, b.Close())
}

func TestBarNeverStandsInTheWay(t *testing.T) {
	b := newBar(&bytes.Buffer{}, "f", 10)
	n, err := b.Write(make([]byte, 25))
	assert.NoError(t, err, "a file that grew")
	assert.Equal(t, 25, n)
	read, write, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, read.Close())
	defer write.Close()
	b = newBar(write, standardInput, -1)
	_, err = b.Write(make([]byte, 25))
	assert.NoError(t, err, "a terminal that went away")
}

func TestCopyTellsTheTwoSidesApart(t *testing.T) {
	var unreadable *unreadableError
	err := copyTo(io.Discard, io.MultiReader(strings.NewReader("x"), failing{}), "name")
	require.ErrorAs(t, err, &unreadable)
	assert.EqualError(t, err, `reading "name": unexpected EOF`)
	err = copyTo(failing{}, strings.NewReader("x"), "name")
	assert.NotErrorAs(t, err, &unreadable)
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// failing is a file on a broken disk.
type failing struct{}

func (failing) Read([]byte) (int, error)  { return 0, io.ErrUnexpectedEOF }
func (failing) Write([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
