package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

func TestComparison(t *testing.T) {
	mac, other := crossMAC{MAC: []byte("1234")}, crossMAC{MAC: []byte("1235")}
	for _, tc := range []struct {
		name         string
		ours, theirs crossMAC
		status, text string
	}{
		{"equal", mac, mac, pkcs11kms.StatusOK, "equal: "},
		{"different", mac, other, pkcs11kms.StatusError, "different: "},
		{"shorter", mac, crossMAC{MAC: []byte("123")}, pkcs11kms.StatusError, "different: "},
		{"none of theirs", mac, crossMAC{Error: "no object"}, pkcs11kms.StatusError, "crypto11 makes no MAC: no object"},
		{"none of ours", crossMAC{Error: "disabled"}, mac, pkcs11kms.StatusError, "this program makes no MAC: disabled"},
		{"none at all", crossMAC{Error: "disabled"}, crossMAC{Error: "no object"}, pkcs11kms.StatusError, "this program makes no MAC: disabled"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			check := compare("k1", tc.ours, tc.theirs)
			assert.Equal(t, tc.status, check.Status)
			assert.True(t, strings.HasPrefix(check.Text, tc.text), check.Text)
			assert.Equal(t, "k1", check.Subject)
			assert.Equal(t, strings.HasPrefix(tc.text, "different"), check.Hint != "")
			assert.NotContains(t, check.Text+check.Hint, "123", "a MAC in the report")
		})
	}
}

func TestChildRefusesWhatIsNoJob(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{crosscheckVerb}, strings.NewReader(`{"PIN": "s3cret", "Keys": 1}`), &stdout, &stderr)
	assert.Equal(t, 3, code)
	assert.Empty(t, stdout.String())
	assert.NotContains(t, stderr.String(), "s3cret")
}

func TestChildAnswersForATokenThatIsNotThere(t *testing.T) {
	var stdout bytes.Buffer
	job, err := json.Marshal(crossJob{Module: "/nonexistent/module.so", Serial: "1", PIN: "s3cret"})
	require.NoError(t, err)
	require.Zero(t, run(t.Context(), []string{crosscheckVerb}, bytes.NewReader(job), &stdout, io.Discard))
	var answer crossAnswer
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &answer))
	assert.NotEmpty(t, answer.Error)
	assert.NotContains(t, stdout.String(), "s3cret")
}

func TestTokensThatCouldNotBeOpenedAreNotCompared(t *testing.T) {
	report := &pkcs11kms.Report{Regions: []pkcs11kms.RegionReport{{Name: "us-east-1"}}}
	checks := crosscheckAll(t.Context(), statedir.Config{}, report)
	require.Len(t, checks, 1)
	assert.Equal(t, pkcs11kms.StatusError, checks[0].Status)
	assert.Equal(t, "us-east-1", checks[0].Subject)
}

func TestTokensThatFailedAreNotCompared(t *testing.T) {
	report := &pkcs11kms.Report{
		Checks: []pkcs11kms.Check{
			{Area: "token", Subject: "us-east-1", Status: pkcs11kms.StatusError},
			{Area: "token", Subject: "us-west-2", Status: pkcs11kms.StatusWarning},
			{Area: "key", Subject: "us-west-2", Status: pkcs11kms.StatusError},
		},
		Regions: []pkcs11kms.RegionReport{
			{Name: "us-east-1", Token: &pkcs11kms.TokenReport{}},
			{Name: "us-west-2", Token: &pkcs11kms.TokenReport{}},
		},
	}
	checks := crosscheckAll(t.Context(), statedir.Config{}, report)
	require.Len(t, checks, 2)
	assert.Equal(t, pkcs11kms.Check{Area: "crosscheck", Subject: "us-east-1", Status: pkcs11kms.StatusError,
		Text: "not done: something is wrong with the token"}, checks[0])
	assert.Equal(t, pkcs11kms.StatusOK, checks[1].Status, "without a key there is nothing to compare")
}

func TestReportForPeople(t *testing.T) {
	report := &pkcs11kms.Report{Checks: []pkcs11kms.Check{
		{Area: "store", Subject: "kms.db", Status: pkcs11kms.StatusOK, Text: "is sound"},
		{Area: "key", Subject: "k1", Status: pkcs11kms.StatusError, Text: "has no object", Hint: "restore it\nor not"},
		{Area: "store", Subject: "disk", Status: pkcs11kms.StatusWarning, Text: "is nearly full"},
	}}
	assert.Equal(t, `store
  ok       kms.db: is sound
  warning  disk: is nearly full
key
  error    k1: has no object
           hint: restore it
           hint: or not
1 ok, 1 warning, 1 error
`, describe(report))
}

func TestShellWords(t *testing.T) {
	for word, want := range map[string]string{"./kms": "./kms", "": "''", "two words": "'two words'", "it's": `'it'\''s'`, "$HOME": "'$HOME'", "ünï": "'ünï'"} {
		assert.Equal(t, want, shellQuote(word))
	}
}
