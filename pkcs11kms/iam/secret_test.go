package iam

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// No two lists of texts are signed as the same bytes.
func TestLengthPrefixed(t *testing.T) {
	seen := map[string]bool{}
	for _, parts := range [][]string{{}, {""}, {"", ""}, {"ab", "c"}, {"a", "bc"}, {"abc"}, {"abc", ""}} {
		seen[string(lengthPrefixed(parts...))] = true
	}
	require.Len(t, seen, 7)
}
