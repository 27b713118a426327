package audit

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tampered is a small log of two chains, the first of which has three files, and its heads.
type tampered struct {
	dir   string
	heads []Head
	files map[string][]byte
}

const perFile, tamperedFiles = 4, 3

func newTampered(t *testing.T) *tampered {
	x := &tampered{dir: filepath.Join(t.TempDir(), "audit"), files: map[string][]byte{}}
	first, err := Open(x.dir, Options{})
	require.NoError(t, err)
	second, err := Open(x.dir, Options{})
	require.NoError(t, err)
	for i := range perFile * tamperedFiles {
		require.NoError(t, first.Record(t.Context(), use(i)))
		if i%perFile == perFile-1 && i < perFile*tamperedFiles-1 {
			first.Rotate()
		}
	}
	for i := range perFile {
		require.NoError(t, second.Record(t.Context(), use(100+i)))
	}
	require.NoError(t, first.Close())
	require.NoError(t, second.Close())
	x.heads, err = Heads(x.dir)
	require.NoError(t, err)
	require.Len(t, x.heads, 2)
	entries, err := os.ReadDir(x.dir)
	require.NoError(t, err)
	for _, entry := range entries {
		path := filepath.Join(x.dir, entry.Name())
		if f, ok := parseName(path); ok { // plain files, which are easier to change
			r, err := openFile(f)
			require.NoError(t, err)
			var text bytes.Buffer
			_, err = text.ReadFrom(r)
			require.NoError(t, err)
			require.NoError(t, r.Close())
			require.NoError(t, os.Remove(path))
			x.files[f.path] = text.Bytes()
		}
	}
	x.restore(t)
	return x
}

// restore puts everything back.
func (x *tampered) restore(t *testing.T) {
	for path, text := range x.files {
		require.NoError(t, os.WriteFile(path, text, 0o600))
	}
}

// paths are the files, in order.
func (x *tampered) paths() []string { return sortedKeys(x.files) }

func (x *tampered) verify(t *testing.T, heads []Head) []Problem {
	t.Helper()
	v, err := VerifyDir(x.dir, Known{Heads: heads})
	require.NoError(t, err)
	return v.Problems
}

func linesOf(text []byte) [][]byte {
	return bytes.SplitAfter(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
}

func joined(lines [][]byte) []byte {
	var whole [][]byte
	for _, line := range lines {
		whole = append(whole, bytes.TrimSuffix(line, []byte("\n")))
	}
	if len(whole) == 0 {
		return nil
	}
	return append(bytes.Join(whole, []byte("\n")), '\n')
}

// Whatever is done to a record at any place is found, by what is in the log alone where something comes after it, and at the end of a chain
// by its head.
func TestTamperingIsFound(t *testing.T) {
	x := newTampered(t)
	require.Empty(t, x.verify(t, x.heads))
	var foreign []byte // a record of the other chain
	ways := map[string]func(lines [][]byte, i int) [][]byte{
		"edit": func(lines [][]byte, i int) [][]byte {
			lines[i] = bytes.Replace(lines[i], []byte("GenerateMac"), []byte("GenerateMaC"), 1)
			return lines
		},
		"edit of the place": func(lines [][]byte, i int) [][]byte {
			lines[i] = bytes.Replace(lines[i], []byte(`"prev":"`), []byte(`"prev":"f`), 1)
			lines[i] = bytes.Replace(lines[i], []byte(`"}}`), []byte(`}}`), 1)
			return lines
		},
		"blank":    func(lines [][]byte, i int) [][]byte { lines[i] = []byte("\n"); return lines },
		"removal":  func(lines [][]byte, i int) [][]byte { return slices.Delete(lines, i, i+1) },
		"again":    func(lines [][]byte, i int) [][]byte { return slices.Insert(lines, i, bytes.Clone(lines[i])) },
		"splice":   func(lines [][]byte, i int) [][]byte { return slices.Insert(lines, i, foreign) },
		"replaced": func(lines [][]byte, i int) [][]byte { lines[i] = foreign; return lines },
		"truncation": func(lines [][]byte, i int) [][]byte {
			lines = lines[:i+1]
			lines[i] = lines[i][:len(lines[i])/2]
			return lines
		},
		"cut": func(lines [][]byte, i int) [][]byte { return lines[:i] },
		"swap": func(lines [][]byte, i int) [][]byte {
			j := min(i+1, len(lines)-1)
			lines[j-1], lines[j] = lines[j], lines[i]
			return lines
		},
	}
	for name, change := range ways {
		for f, path := range x.paths() {
			foreign = linesOf(x.files[x.paths()[tamperedFiles]])[1]
			if f == tamperedFiles {
				foreign = linesOf(x.files[x.paths()[0]])[1]
			}
			for i := range perFile {
				what := fmt.Sprintf("%s of line %d of file %d", name, i+1, f+1)
				lines := change(linesOf(x.files[path]), i)
				text := joined(lines)
				if name == "truncation" {
					text = bytes.TrimSuffix(text, []byte("\n"))
				}
				require.NoError(t, os.WriteFile(path, text, 0o600))
				problems := x.verify(t, x.heads)
				require.NotEmpty(t, problems, what)
				lastFile := f >= tamperedFiles-1
				atEnd := lastFile && (i == perFile-1 || name == "cut" || name == "truncation")
				if !atEnd {
					require.NotEmpty(t, x.verify(t, nil), "%s, without the head", what)
				}
				first := problems[0]
				switch {
				case first.Line == 0: // a file or a head
				case first.File != filepath.Base(path): // what was done to the last record shows in the one after it
					require.Equal(t, [2]int{perFile - 1, 1}, [2]int{i, first.Line}, "%s: %s", what, first)
				default:
					require.LessOrEqual(t, i, first.Line, what)
					require.LessOrEqual(t, first.Line, i+2, "%s: %s", what, first)
				}
			}
			x.restore(t)
		}
	}
}

// Every single byte of a log counts.
func TestEveryByteCounts(t *testing.T) {
	x := newTampered(t)
	for _, path := range x.paths()[tamperedFiles-1 : tamperedFiles] {
		text := x.files[path]
		for i := range text {
			changed := bytes.Clone(text)
			changed[i] ^= 1
			require.NoError(t, os.WriteFile(path, changed, 0o600))
			require.NotEmpty(t, x.verify(t, x.heads), "byte %d, %q", i, text[max(0, i-20):min(len(text), i+20)])
		}
	}
}

// A file or a chain that has gone is found.
func TestVanishedFilesAreFound(t *testing.T) {
	x := newTampered(t)
	for i, path := range x.paths() {
		require.NoError(t, os.Remove(path))
		require.NotEmpty(t, x.verify(t, x.heads), path)
		if i != tamperedFiles-1 { // the newest of a chain is only missed by its head
			require.NotEmpty(t, x.verify(t, nil), path)
		}
		x.restore(t)
	}
	for _, path := range x.paths()[:tamperedFiles] {
		require.NoError(t, os.Remove(path))
	}
	require.Contains(t, x.verify(t, nil)[0].Text, "all files of the chain have gone")
	require.NoError(t, os.Remove(lockPath(x.dir, 1)))
	require.Empty(t, x.verify(t, nil), "which is not to be found without a head")
	require.Equal(t, []string{"the chain has gone"}, []string{x.verify(t, x.heads)[0].Text})
	x.restore(t)
}

// Files can be looked at by themselves, somewhere else; what is between them is missed.
func TestFilesByThemselves(t *testing.T) {
	x := newTampered(t)
	paths := x.paths()
	verify := func(paths ...string) *Verification {
		v, err := VerifyFiles(paths, Known{})
		require.NoError(t, err)
		return v
	}
	require.Empty(t, verify(paths...).Problems)
	alone := verify(paths[1])
	require.Empty(t, alone.Problems)
	require.Len(t, alone.Notes, 1)
	require.Contains(t, alone.Notes[0], "what was recorded before it is not looked at")
	require.NotEmpty(t, verify(paths[2], paths[0]).Problems)
	require.NoError(t, pack(file{path: paths[1]}, slog.New(slog.DiscardHandler)))
	require.Empty(t, verify(paths[2], paths[1]+".gz").Problems)
	text, err := os.ReadFile(paths[1] + ".gz")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(paths[1]+".gz", text[:len(text)-10], 0o600))
	problems := verify(paths[1] + ".gz").Problems
	require.NotEmpty(t, problems)
	require.Contains(t, problems[len(problems)-1].Text, "it cannot be read")
	_, err = VerifyFiles([]string{"/tmp/x.txt"}, Known{})
	require.ErrorContains(t, err, "is not named like a file of an audit log")
}

// A head is that of one record. An older one is good for as long as the log has its record.
func TestHeads(t *testing.T) {
	x := newTampered(t)
	old := Head{Chain: x.heads[0].Chain, Seq: 5, Hash: hexOf(hashOf(bytes.TrimSuffix(linesOf(x.files[x.paths()[1]])[0], []byte("\n"))))}
	require.Empty(t, x.verify(t, append(x.heads, old)))
	old.Hash = strings.Repeat("0", 64)
	problems := x.verify(t, []Head{old})
	require.Len(t, problems, 1)
	require.EqualValues(t, 5, problems[0].Seq)
	require.Contains(t, problems[0].String(), "record 5 of chain "+old.Chain+": it is not the record that the head names")
}
