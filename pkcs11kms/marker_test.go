package pkcs11kms

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMarker(t *testing.T) {
	want := marker{Op: "ListKeys", Region: testRegion, Account: testAccount}
	m := want
	m.After = unknownID
	got, err := parseMarker(m.String(), want)
	require.NoError(t, err)
	require.Equal(t, m, got)
	text := m.String()
	for i := range text {
		damaged := []byte(text)
		damaged[i] ^= 1
		_, err := parseMarker(string(damaged), want)
		requireAPIError(t, err, "InvalidMarkerException", "The marker is not one that this operation returned.")
	}
	for _, other := range []marker{{Op: "ListAliases", Region: testRegion, Account: testAccount},
		{Op: "ListKeys", Region: "us-east-1", Account: testAccount}, {Op: "ListKeys", Region: testRegion, Account: "999999999999"},
		{Op: "ListKeys", Region: testRegion, Account: testAccount, Filter: "a key"}} {
		_, err := parseMarker(text, other)
		requireAPIError(t, err, "InvalidMarkerException", "The marker is not one that this operation returned.")
	}
	for _, junk := range []string{"", "A", text + "=", text + "AAAA", text[:len(text)-2]} {
		_, err := parseMarker(junk, want)
		requireAPIError(t, err, "InvalidMarkerException", "The marker is not one that this operation returned.")
	}
}
