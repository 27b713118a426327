package main

import (
	"go/parser"
	"go/token"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A fault whose text is not in the code any more is one that nobody looks for.
func TestListIsNotStale(t *testing.T) {
	areas, err := loadAreas()
	require.NoError(t, err)
	require.NotEmpty(t, areas)
	total := 0
	for _, a := range areas {
		names := map[string]bool{}
		assert.NotEmpty(t, a.Packages, a.Name)
		for _, f := range a.Faults {
			total++
			assert.NotEmpty(t, f.Name)
			assert.False(t, names[f.Name], "%s: two faults %q", a.Name, f.Name)
			names[f.Name] = true
			faulty, err := f.apply("../..")
			if !assert.NoError(t, err, "%s: %s", a.Name, f.Name) {
				continue
			}
			if path.Ext(f.File) == ".go" {
				_, err = parser.ParseFile(token.NewFileSet(), f.File, faulty, parser.SkipObjectResolution)
				assert.NoError(t, err, "%s: %s", a.Name, f.Name)
			}
			assert.NotEqual(t, strings.TrimSpace(f.From), strings.TrimSpace(f.To), "%s: %s", a.Name, f.Name)
		}
	}
	assert.GreaterOrEqual(t, total, 150)
}
