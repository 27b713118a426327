package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tiny is a module with functions of every form, and a test that notices some faults of it.
var tiny = map[string]string{
	"go.mod":   "module tiny\n\ngo 1.26.0\n",
	"tiny.txt": "to be seen\n",
	"tiny.go": `package tiny

import _ "embed"

//go:embed tiny.txt
var text string

const limit = 10

type box[T any] struct{ values []T }

func (b *box[T]) add(values ...T) { b.values = append(b.values, values...) }

func (box[T]) size(_ int, _ string) int { return 7 }

func first[T any](list []T) (value T, ok bool) {
	if len(list) == 0 {
		return value, false
	}
	return list[0], true
}

func within(n int) bool { return n < limit }

func unseen() int { return 1 }
`,
	"tiny_test.go": `package tiny

import "testing"

func TestTiny(t *testing.T) {
	b := &box[int]{}
	b.add(4, 5)
	if v, ok := first(b.values); !ok || v != 4 || b.size(0, "") != 7 || len(b.values) != 2 {
		t.Fatal(v, ok)
	}
	if within(10) || !within(9) {
		t.Fatal("limit")
	}
	if text != "to be seen\n" {
		t.Fatal(text)
	}
	unseen()
}
`,
}

func tinyFault(name, from, to string) fault {
	return fault{Name: name, File: "tiny.go", From: from, To: to, at: -1}
}

// What is noticed, survives or is no fault is told apart, inside and outside functions.
func TestFaultsMeetTheTests(t *testing.T) {
	dir := t.TempDir()
	for name, text := range tiny {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	t.Setenv("GOFLAGS", "")
	explained := tinyFault("explained", "return 1", "return 3")
	explained.Survives = "nobody looks"
	a := area{Name: "tiny", Packages: []string{"."}, Tests: "NoSuchTest", Faults: []fault{
		tinyFault("method", "append(b.values, values...)", "append(b.values, values[0])"),
		tinyFault("unnamed", "return 7", "return 8"),
		tinyFault("generic", "return list[0], true", "return list[len(list)-1], true"),
		tinyFault("constant", "limit = 10", "limit = 11"),
		{Name: "embedded", File: "tiny.txt", From: "seen", To: "heard", at: -1},
		tinyFault("survivor", "return 1", "return 2"),
		explained,
		tinyFault("nonsense", "n < limit", "n < nothing"),
	}}
	r, err := newRunner(options{dir: dir, timeout: time.Minute, first: time.Minute})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.close()) }()
	results, err := r.area(t.Context(), a, options{dir: dir})
	require.NoError(t, err)
	require.Len(t, results, len(a.Faults))
	for i, noticed := range []bool{true, true, true, true, true, false, false} {
		assert.NoError(t, results[i].err, results[i].fault.Name)
		assert.Equal(t, noticed, results[i].killer == ". ^TestTiny$", results[i].fault.Name)
	}
	require.ErrorIs(t, results[7].err, errDoesNotCompile)
	require.ErrorContains(t, results[7].err, "undefined: nothing")

	var out bytes.Buffer
	err = report(&out, results)
	require.ErrorIs(t, err, errBelow)
	require.ErrorIs(t, err, errDoesNotCompile)
	require.Contains(t, out.String(), "tiny                   7         5          1         1   0.83")
	require.Contains(t, out.String(), "- tiny, survivor (tiny.go)\n    return 1\n    -> return 2\n")
	require.Contains(t, out.String(), "explained: nobody looks")
	require.NoError(t, report(&out, results[:5]), "the target is reached")

	text, err := os.ReadFile(filepath.Join(dir, "tiny.go"))
	require.NoError(t, err)
	require.Equal(t, tiny["tiny.go"], string(text), "the tree is not touched")
}

// Whatever is drawn can be put in, and the same seed draws the same.
func TestDrawnFaults(t *testing.T) {
	a := area{Files: []string{"test/mutants/*.go"}}
	one, err := drawn("../..", a, 1)
	require.NoError(t, err)
	same, err := drawn("../..", a, 1)
	require.NoError(t, err)
	other, err := drawn("../..", a, 2)
	require.NoError(t, err)
	require.Equal(t, one, same)
	require.NotEqual(t, one, other)
	require.Greater(t, len(one), 100)
	for _, f := range one {
		text, err := f.apply("../..")
		require.NoError(t, err)
		whole, err := os.ReadFile(filepath.Join("../..", f.File))
		require.NoError(t, err)
		require.Len(t, text, len(whole)-len(f.From)+len(f.To), f.Name)
	}
}
