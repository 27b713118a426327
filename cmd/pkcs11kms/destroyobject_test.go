package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
)

func TestOnlyAClearYesIsOne(t *testing.T) {
	for answer, want := range map[string]bool{
		"y\n": true, "Y\n": true, "yes\n": true, " YES \n": true,
		"": false, "\n": false, "n\n": false, "yea\n": false, "y n\n": false, "ny\n": false,
		"y": false, // the terminal went away in the middle of it
	} {
		var asked bytes.Buffer
		got, err := confirm(t.Context(), strings.NewReader(answer), &asked, "Destroy it?")
		require.NoError(t, err)
		assert.Equal(t, want, got, "%q", answer)
		assert.True(t, strings.HasPrefix(asked.String(), "Destroy it? [y/N] "), asked.String())
	}
}

func TestNobodyAgreesToAQuestionThatCannotBeAsked(t *testing.T) {
	agreed, err := confirm(t.Context(), strings.NewReader("y\n"), brokenWriter{}, "Destroy it?")
	require.ErrorIs(t, err, errBroken)
	assert.False(t, agreed)
}

func TestQuestionEndsWithItsContext(t *testing.T) {
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	defer write.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	agreed, err := confirm(ctx, read, &bytes.Buffer{}, "Destroy it?")
	require.ErrorIs(t, err, context.Canceled)
	assert.False(t, agreed)
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

// The object that is destroyed is one of the region that was asked for, and no other has its CKA_ID.
func TestUnknownObject(t *testing.T) {
	east := doctor.RegionReport{Name: "us-east-1", Token: &doctor.TokenReport{Label: "kms"},
		Keys: []doctor.KeyReport{{KeyID: "k1", CKAID: "01"}},
		Unknown: []doctor.ObjectReport{{Class: "CKO_SECRET_KEY", CKAID: "02", Label: "theirs"},
			{Class: "CKO_PUBLIC_KEY", CKAID: "03"}, {Class: "CKO_PRIVATE_KEY", CKAID: "03"}}}
	west := doctor.RegionReport{Name: "us-west-2", Token: &doctor.TokenReport{Label: "other"},
		Unknown: []doctor.ObjectReport{{Class: "CKO_DATA", CKAID: "04", Label: "notes"}}}
	failed := []doctor.Check{
		{Area: "key", Subject: "k1", Status: doctor.StatusError, Text: "not this"},
		{Area: "token", Subject: "us-west-2", Status: doctor.StatusError, Text: "gone", Hint: "plug it in"}}
	for _, tc := range []struct {
		region, id string
		checks     []doctor.Check
		name       string
		code       int
		text       string
	}{
		{region: "us-east-1", id: "02", name: `CKO_SECRET_KEY "theirs" with the CKA_ID 02 in the token "kms" of us-east-1`},
		{id: "02", name: `CKO_SECRET_KEY "theirs" with the CKA_ID 02 in the token "kms" of us-east-1`},
		{region: "us-east-1", id: "02", checks: failed, name: `CKO_SECRET_KEY "theirs" with the CKA_ID 02 in the token "kms" of us-east-1`},
		{region: "us-west-2", id: "04", name: `CKO_DATA "notes" with the CKA_ID 04 in the token "other" of us-west-2`},
		{region: "us-west-2", id: "02", code: exitRefused, text: "no object with the CKA_ID 02 that no key has"},
		{region: "us-east-1", id: "04", code: exitRefused, text: "no object with the CKA_ID 04 that no key has"},
		{region: "us-east-1", id: "01", code: exitRefused, text: "belongs to the key k1"},
		{region: "us-east-1", id: "03", code: exitRefused, text: "2 objects of the token have the CKA_ID 03"},
		{region: "eu-west-1", id: "05", checks: failed, code: exitEnvironment, text: "looking for the object: us-west-2: gone"},
	} {
		report := &doctor.Report{Checks: tc.checks, Regions: []doctor.RegionReport{east, west}}
		name, err := unknownObject(report, tc.region, tc.id)
		assert.Equal(t, tc.name, name, "%+v", tc)
		var stderr bytes.Buffer
		a := &app{stderr: &stderr, started: true}
		assert.Equal(t, tc.code, a.report(t.Context(), nil, err), "%+v", tc)
		assert.Contains(t, stderr.String(), tc.text)
		assert.Equal(t, tc.code != exitDone, strings.Contains(stderr.String(), "\nhint: "), stderr.String())
	}
}

func TestTheOnlyRegionNeedsNoName(t *testing.T) {
	only := doctor.RegionReport{Name: "eu-central-1"}
	assert.Equal(t, only, examined(&doctor.Report{Regions: []doctor.RegionReport{only}}, ""))
	assert.Empty(t, examined(&doctor.Report{}, "").Name)
}
