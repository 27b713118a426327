package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDiagramOfTheArrows: the diagram in docs/design.md shows what the code imports. When it is old, it is written anew, and the
// test fails so that somebody looks at it.
func TestDiagramOfTheArrows(t *testing.T) {
	const begin, end = "```mermaid\n", "```\n"
	path := filepath.Join("..", "docs", "design.md")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), begin)
	require.True(t, ok, "no diagram")
	have, after, ok := strings.Cut(rest, end)
	require.True(t, ok, "a diagram without an end")
	if want := diagram(t); have != want {
		require.NoError(t, os.WriteFile(path, []byte(before+begin+want+end+after), 0o644))
		t.Error("docs/design.md is written anew: look at the new arrows and commit it")
	}
}

// diagram is the graph of the module's packages in the language of mermaid. Arrows that others imply are left out: a package that
// imports what its imports import anyway shows the longer way alone.
func diagram(t *testing.T) string {
	imports := map[string][]string{}
	for name, p := range goList(t, "./...") {
		if placeOf(name) == "test" || strings.HasPrefix(name, "test/") {
			continue
		}
		imports[name] = own(p.Imports)
	}
	var out strings.Builder
	out.WriteString("graph TD\n")
	names := map[string]bool{}
	for name, used := range imports {
		names[name] = true
		for _, u := range used {
			names[u] = true
		}
	}
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		for _, used := range imports[name] {
			if !implied(imports, name, used) {
				fmt.Fprintf(&out, "  %s --> %s\n", shortName(name), shortName(used))
			}
		}
	}
	return out.String()
}

// implied tells whether another import of a package leads to used as well.
func implied(imports map[string][]string, name, used string) bool {
	return slices.ContainsFunc(imports[name], func(other string) bool { return other != used && leads(imports, other, used) })
}

func leads(imports map[string][]string, from, to string) bool {
	return from == to || slices.ContainsFunc(imports[from], func(next string) bool { return leads(imports, next, to) })
}

// shortName leaves out the folder that most have in common.
func shortName(name string) string {
	if short, ok := strings.CutPrefix(name, "pkcs11kms/"); ok {
		return short
	}
	return name
}
