package sqlite

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// What docs/backup.md and the hints promise: a test that takes its expectation from the constant holds nothing.
func TestBoundsAreThoseOfTheDocuments(t *testing.T) {
	assert.Equal(t, 7*24*time.Hour, RestoreGrace, "no key is destroyed within a week of a restore")
	assert.Equal(t, 5*time.Second, busyLimit, "a commit waits for the write lock")
}
