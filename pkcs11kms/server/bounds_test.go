package server

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What docs/server.md promises stands here in its words: a test that takes its expectation from the constant holds nothing.
func TestBoundsAreThoseOfTheDocuments(t *testing.T) {
	require.Equal(t, limits{header: 5 * time.Second, read: 15 * time.Second, write: 5 * time.Second, idle: 2 * time.Minute}, defaultLimits)
	for what, bound := range map[string][2]time.Duration{
		"what is under way is finished at a stop": {20 * time.Second, DefaultGrace},
		"a check of readiness is at most so old":  {time.Second, readyAge},
		"a check of readiness may take":           {2 * time.Second, readyTimeout},
	} {
		require.Equal(t, bound[0], bound[1], what)
	}
	for what, bound := range map[string][2]int{
		"bytes of a body":                                            {1048576, maxBody},
		"bytes of the headers":                                       {65536, maxHeader},
		"bytes of a body without shared memory":                      {8192, firstBody},
		"bytes of the bodies that are read at once":                  {33554432, bodyMemory},
		"connections to the API without a signed request":            {4096, maxUnproved},
		"connections to the API with one":                            {16384, maxProved},
		"connections to the admin listener without a request":        {256, maxAdminWaiting},
		"requests to the admin listener at once":                     {64, maxAdminAnswered},
		"descriptors for store, token and log":                       {256, spareDescriptors},
		"and for each session":                                       {2, descriptorsPerSession},
		"log lines a second about requests of those who are unknown": {5, strangersPerSecond},
	} {
		require.Equal(t, bound[0], bound[1], what)
	}
}
