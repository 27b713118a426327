//go:build madeup

package ops

// MadeUp is a row without anything else. The test of what such a row needs builds with it.
var MadeUp = add(Operation{Service: kms, Name: "MadeUp"})
