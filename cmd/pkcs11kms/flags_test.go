package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestConfigurationOfAVerb: what does one thing and ends destroys no keys on its way, counts in nobody's rate, and writes a
// log where it is asked for one.
func TestConfigurationOfAVerb(t *testing.T) {
	p := newProgram(t)
	var stderr bytes.Buffer
	a := &app{stderr: &stderr, stateDir: filepath.Join(p.dir, "kms")}
	cfg, err := a.oneShotConfig()
	require.NoError(t, err)
	assert.True(t, cfg.ShortLived)
	assert.True(t, cfg.Quotas.NoRates)
	assert.Nil(t, cfg.Logger)
	a.debug = true
	cfg, err = a.oneShotConfig()
	require.NoError(t, err)
	cfg.Logger.Debug("here")
	assert.Contains(t, stderr.String(), "msg=here")
	serving, err := a.config()
	require.NoError(t, err)
	assert.False(t, serving.ShortLived, "a server is long-lived")
	assert.False(t, serving.Quotas.NoRates)
}

// TestEveryFlagCounts: a flag that is given reaches its member of the input, alone or one of several.
func TestEveryFlagCounts(t *testing.T) {
	var list []string
	require.NoError(t, flagsOf(t, func(in *input) { in.list(&list, "list", "") }, "--list=a", "--list=b"))
	assert.Equal(t, []string{"a", "b"}, list)
	err := flagsOf(t, func(in *input) {
		var a, b *string
		in.text(&a, "user-name", "")
		in.text(&b, "role-name", "")
		in.oneOf("user-name", "role-name")
	}, "--user-name=a", "--role-name=b")
	assert.EqualError(t, err, "--user-name and --role-name do not go together")
}

// TestADocumentThatIsTooLongIsNotRead: what was cut off is another document.
func TestADocumentThatIsTooLongIsNotRead(t *testing.T) {
	for size, good := range map[int]bool{maxFile - 1: true, maxFile: false, maxFile + 1: false} {
		a := &app{stdin: strings.NewReader(strings.Repeat(" ", size))}
		text, err := a.readDocument("-")
		if good {
			require.NoError(t, err)
			assert.Len(t, text, size)
			continue
		}
		assert.EqualError(t, err, "it is longer than any policy", "%d", size)
	}
	file := tempFile(t, "{}")
	text, err := (&app{}).readDocument(file)
	require.NoError(t, err)
	assert.Equal(t, "{}", text)
	require.NoError(t, os.Remove(file))
	_, err = (&app{}).readDocument(file)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// TestConditionsOfARequest: a condition key that is named again has several values, whatever the case of its letters.
func TestConditionsOfARequest(t *testing.T) {
	got, err := parseConditions([]string{"aws:TagKeys=a", "kms:MacAlgorithm=HMAC_SHA_256", "AWS:tagkeys=b", "aws:TagKeys=c=d"})
	require.NoError(t, err)
	assert.Equal(t, map[string][]string{"aws:tagkeys": {"a", "b", "c=d"}, "kms:macalgorithm": {"HMAC_SHA_256"}}, got)
	for _, text := range []string{"", "kms:MacAlgorithm", "MacAlgorithm=x", "MacAlgorithm=x:y"} {
		_, err := parseConditions([]string{text})
		var usage *usageError
		assert.ErrorAs(t, err, &usage, text)
	}
}
