package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

func TestComparison(t *testing.T) {
	mac, other := crossMAC{MAC: []byte("1234")}, crossMAC{MAC: []byte("1235")}
	for _, tc := range []struct {
		name         string
		ours, theirs crossMAC
		status, text string
	}{
		{"equal", mac, mac, doctor.StatusOK, "equal: "},
		{"different", mac, other, doctor.StatusError, "different: "},
		{"shorter", mac, crossMAC{MAC: []byte("123")}, doctor.StatusError, "different: "},
		{"none of theirs", mac, crossMAC{Error: "no object"}, doctor.StatusError, "crypto11 makes no MAC: no object"},
		{"none of ours", crossMAC{Error: "disabled"}, mac, doctor.StatusError, "this program makes no MAC: disabled"},
		{"none at all", crossMAC{Error: "disabled"}, crossMAC{Error: "no object"}, doctor.StatusError, "this program makes no MAC: disabled"},
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
	job, err := json.Marshal(crossJob{Token: doctor.TokenReport{Module: "/nonexistent/module.so", Serial: "1"}, PIN: "s3cret"})
	require.NoError(t, err)
	require.Zero(t, run(t.Context(), []string{crosscheckVerb}, bytes.NewReader(job), &stdout, io.Discard))
	var answer crossAnswer
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &answer))
	assert.NotEmpty(t, answer.Error)
	assert.NotContains(t, stdout.String(), "s3cret")
}

func TestTokensThatCouldNotBeOpenedAreNotCompared(t *testing.T) {
	report := &doctor.Report{Regions: []doctor.RegionReport{{Name: "us-east-1"}}}
	checks := crosscheckAll(t.Context(), statedir.Config{}, report)
	require.Len(t, checks, 1)
	assert.Equal(t, doctor.StatusError, checks[0].Status)
	assert.Equal(t, "us-east-1", checks[0].Subject)
}

func TestTokensThatFailedAreNotCompared(t *testing.T) {
	report := &doctor.Report{
		Checks: []doctor.Check{
			{Area: "token", Subject: "us-east-1", Status: doctor.StatusError},
			{Area: "token", Subject: "us-west-2", Status: doctor.StatusWarning},
			{Area: "key", Subject: "us-west-2", Status: doctor.StatusError},
		},
		Regions: []doctor.RegionReport{
			{Name: "us-east-1", Token: &doctor.TokenReport{}},
			{Name: "us-west-2", Token: &doctor.TokenReport{}},
		},
	}
	checks := crosscheckAll(t.Context(), statedir.Config{}, report)
	require.Len(t, checks, 2)
	assert.Equal(t, doctor.Check{Area: "crosscheck", Subject: "us-east-1", Status: doctor.StatusError,
		Text: "not done: something is wrong with the token"}, checks[0])
	assert.Equal(t, doctor.StatusOK, checks[1].Status, "without a key there is nothing to compare")
}

func TestReportForPeople(t *testing.T) {
	report := &doctor.Report{Checks: []doctor.Check{
		{Area: "store", Subject: "kms.db", Status: doctor.StatusOK, Text: "is sound"},
		{Area: "key", Subject: "k1", Status: doctor.StatusError, Text: "has no object", Hint: "restore it\nor not"},
		{Area: "store", Subject: "disk", Status: doctor.StatusWarning, Text: "is nearly full"},
	}, FIPS140: doctor.FIPS140{Mode: "off", Module: "latest"}}
	assert.Equal(t, `store
  ok       kms.db: is sound
  warning  disk: is nearly full
key
  error    k1: has no object
           hint: restore it
           hint: or not
FIPS 140-3 mode: off
1 ok, 1 warning, 1 error
`, describe(report))
}

func TestShellWords(t *testing.T) {
	for word, want := range map[string]string{"./kms": "./kms", "": "''", "two words": "'two words'", "it's": `'it'\''s'`,
		"$HOME": "'$HOME'", "ünï": "'ünï'"} {
		assert.Equal(t, want, shellQuote(word))
	}
}
