package keyring

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What documents promise stands here in their words: a test that takes its expectation from the constant holds nothing.
func TestBoundsAreThoseOfTheDocuments(t *testing.T) {
	for what, bound := range map[string][2]time.Duration{
		"a process must have lived before it destroys keys (docs/backup.md)": {10 * time.Minute, deletionUptime},
		"the clocks of one machine are apart":                                {time.Minute, clockTolerance},
		"the janitor looks for what the dead left":                           {30 * time.Second, janitorInterval},
		"a pass of the janitor may take":                                     {time.Minute, janitorTimeout},
	} {
		require.Equal(t, bound[0], bound[1], what)
	}
}
