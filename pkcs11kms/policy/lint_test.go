package policy

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// actions are those that this service decides on.
func actions() (all []Action) {
	for op := range ops.All {
		if op.Service != "kms" {
			continue
		}
		all = append(all, Action{Name: op.ActionName(), OnAlias: op.Subject == ops.Alias, ByAlias: op.TakesAlias,
			IdentityOnly: op.IdentityOnly, Conditions: op.Conditions})
	}
	return all
}

// The condition keys of an action are in the table of condition keys, and one that only some actions have is of some.
func TestConditionKeysOfActions(t *testing.T) {
	had := map[string]bool{}
	for _, action := range actions() {
		for _, name := range action.Conditions {
			info, ok := lookupKey(strings.ToLower(name))
			if strings.HasSuffix(name, "/") {
				info, ok = lookupKey(strings.ToLower(name) + "x")
			}
			assert.True(t, ok, "%s: %s", action.Name, name)
			assert.True(t, action.has(info), "%s: %s", action.Name, name)
			had[info.name] = true
		}
	}
	for name, info := range conditionKeys {
		if info.of == ownRequests {
			assert.True(t, had[name], "no action has %s", name)
		}
	}
}

// TestLint runs testdata/lint: each section is a document, its name tells the kind, and a line of it that deserves a
// finding is followed by one or more lines "#> severity path: beginning of the text".
func TestLint(t *testing.T) {
	files, err := filepath.Glob("testdata/lint/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		require.NoError(t, err)
		for _, section := range archive.Files {
			t.Run(section.Name, func(t *testing.T) { lintCase(t, section) })
		}
	}
}

func lintCase(t *testing.T, section txtar.File) {
	kind := IdentityPolicy
	switch {
	case strings.HasPrefix(section.Name, "key"):
		kind = KeyPolicy
	case strings.HasPrefix(section.Name, "trust"):
		kind = TrustPolicy
	}
	var doc strings.Builder
	type expectation struct {
		line int
		text string
	}
	var want []expectation
	line := 0
	for l := range strings.Lines(string(section.Data)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(l), "#> "); ok {
			want = append(want, expectation{line, text})
			continue
		}
		line++
		doc.WriteString(l)
	}
	var got []string
	findings := Lint(kind, doc.String(), actions())
	for i, f := range findings {
		text := f.Severity.String() + " " + f.Path + ": " + f.Text
		got = append(got, text)
		if assert.Less(t, i, len(want), "not expected in line %d: %s", f.Line, text) {
			assert.Equal(t, want[i].line, f.Line, text)
			assert.True(t, strings.HasPrefix(text, want[i].text), "want: %s\n got: %s", want[i].text, text)
		}
	}
	assert.Len(t, got, len(want))
}

// TestConditionKeyTable: each row of the table is one that lookups find, and none is found by half
// of its name.
func TestConditionKeyTable(t *testing.T) {
	for name, info := range conditionKeys {
		assert.Equal(t, strings.ToLower(name), name)
		full := name
		if strings.HasSuffix(name, "/") || strings.HasSuffix(name, ":") {
			_, ok := lookupKey(name)
			assert.False(t, ok, "%s without what follows", name)
			full += "x"
		}
		got, ok := lookupKey(full)
		assert.True(t, ok, name)
		info.name = name
		assert.Equal(t, info, got, name)
		assert.Regexp(t, regexp.MustCompile(`^`+conditionKey+`$`), full)
	}
	for _, name := range []string{"kms:", "aws:principaltag", "aws:username/x", "kms:nothing", "aws:tagkeys:x"} {
		_, ok := lookupKey(name)
		assert.False(t, ok, name)
	}
}

func TestDefaultPolicyIsClean(t *testing.T) {
	assert.Empty(t, Lint(KeyPolicy, defaultKeyPolicy, actions()))
}
