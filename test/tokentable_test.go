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

// TestTokenTable: the table in docs/tokens.md is what TestTokens has on record. When it is old, it is written anew, and the test fails
// so that somebody looks at it.
func TestTokenTable(t *testing.T) {
	const begin = "the table is made by \"go test ./test -run TestToken\", which also says when it is old -->\n"
	const end = "\n<!-- end of the table -->"
	path := filepath.Join("..", "docs", "tokens.md")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), begin)
	require.True(t, ok, "no table")
	have, after, ok := strings.Cut(rest, end)
	require.True(t, ok, "a table without an end")
	if want := tokenTable(t); have != want {
		require.NoError(t, os.WriteFile(path, []byte(before+begin+want+end+after), 0o644))
		t.Error("docs/tokens.md is written anew: look at the table and commit it")
	}
}

// tokenTable has a row for each feature and a column for each token. What is more than a yes is a note below.
func tokenTable(t *testing.T) string {
	var features []string
	answers := map[string]map[string]string{} // by token and feature
	header, line := "| |", "|---|"
	var versions []string
	for _, s := range tokenSetups {
		known := s.record(t)
		require.NotEmpty(t, known.Findings, "no record of %s", s.name)
		header, line = header+" "+s.title+" |", line+"---|"
		versions = append(versions, known.Version)
		answers[s.name] = map[string]string{}
		for _, f := range known.Findings {
			answers[s.name][f.Feature] = f.Answer
			if !slices.Contains(features, f.Feature) {
				features = append(features, f.Feature)
			}
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s\n%s\n| Debian package | %s |\n", header, line, strings.Join(versions, " | "))
	var notes []string
	for _, feature := range features {
		fmt.Fprintf(&out, "| %s |", feature)
		for _, s := range tokenSetups {
			fmt.Fprintf(&out, " %s |", cell(answers[s.name][feature], &notes))
		}
		out.WriteByte('\n')
	}
	out.WriteByte('\n')
	for i, note := range notes {
		fmt.Fprintf(&out, "%d. %s\n", i+1, note)
	}
	return out.String()
}

// cell is an answer in short, with the number of the note that says it in full.
func cell(answer string, notes *[]string) string {
	if answer == yes || answer == "nothing" {
		return answer
	}
	short, note, ok := strings.Cut(answer, ": ")
	if !ok {
		short, note = yes, answer
	}
	i := slices.Index(*notes, note)
	if i < 0 {
		i = len(*notes)
		*notes = append(*notes, note)
	}
	return fmt.Sprintf("%s (%d)", short, i+1)
}
