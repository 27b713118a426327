package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDevCredentialsFile writes the file, reads it again, and reads what somebody has made of it.
func TestDevCredentialsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), devCredentialsFile)
	found, err := readCredentials(path)
	require.NoError(t, err)
	assert.Equal(t, devAccessKey{}, found, "no file")

	made := devAccessKey{"AKIAIOSFODNN7EXAMPLE", "an/example+of=one"}
	for range 2 {
		require.NoError(t, writePrivate(path, credentialsText(made, "us-west-2", "http://127.0.0.1:1")))
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode())
	}
	found, err = readCredentials(path)
	require.NoError(t, err)
	assert.True(t, found == made, "another access key is read than was written")

	for content, want := range map[string]devAccessKey{
		"":                               {},
		"export AWS_ACCESS_KEY_ID=AKIA":  {id: "AKIA"},
		"rubbish\x00\n\n" + exportSecret: {},
	} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		found, err := readCredentials(path)
		require.NoError(t, err)
		assert.Equal(t, want, found, "%q", content)
	}
}

// TestWritePrivateLeavesNothingBehind: where the file cannot be replaced there is no second one with the secret.
func TestWritePrivateLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	require.NoError(t, os.MkdirAll(filepath.Join(path, "in-the-way"), 0o700))
	require.Error(t, writePrivate(path, "text"))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Error(t, writePrivate(filepath.Join(dir, "missing", "file"), "text"))
}
