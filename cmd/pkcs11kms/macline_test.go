package main

import (
	"bytes"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var sampleTag = bytes.Repeat([]byte{0xab}, 32)

func TestMACLines(t *testing.T) {
	digits := hex.EncodeToString(sampleTag)
	for _, tc := range []struct{ name, line string }{
		{"file", digits + "  file"},
		{"-", digits + "  -"},
		{"two words", digits + "  two words"},
		{" *lead", digits + "   *lead"},
		{`back\slash`, `\` + digits + `  back\\slash`},
		{"line\nend", `\` + digits + `  line\nend`},
		{"carriage\rreturn", `\` + digits + `  carriage\rreturn`},
		{"\xff\xfe", digits + "  \xff\xfe"},
	} {
		assert.Equal(t, tc.line+"\n", formatMACLine(sampleTag, tc.name))
		tag, name, ok := parseMACLine(tc.line, 32)
		require.True(t, ok, "%q", tc.line)
		assert.Equal(t, tc.name, name)
		assert.Equal(t, sampleTag, tag)
	}
}

func TestOtherLinesThatAreTaken(t *testing.T) {
	digits := hex.EncodeToString(sampleTag)
	for _, line := range []string{digits + " *file", strings.ToUpper(digits) + "  file"} {
		tag, name, ok := parseMACLine(line, 32)
		require.True(t, ok, "%q", line)
		assert.Equal(t, "file", name)
		assert.Equal(t, sampleTag, tag)
	}
}

func TestMalformedLines(t *testing.T) {
	digits := hex.EncodeToString(sampleTag)
	for _, line := range []string{"", "#", digits, digits + "  ", digits + " file", digits + "\tfile", digits[2:] + "  file",
		"00" + digits + "  file",
		digits + "0  file", digits + "0 *file", digits + "00  file",
		digits[1:] + "  file", "x" + digits[1:] + "  file", " " + digits + "  file", `\` + digits + `  a\b`, `\` + digits + `  a\`,
		digits + "  a\x00b", `\` + digits + "  a\x00b"} {
		_, _, ok := parseMACLine(line, 32)
		assert.False(t, ok, "%q", line)
	}
	_, _, ok := parseMACLine("  file", 0)
	assert.False(t, ok, "an algorithm without a length")
}

// TestLinesAreThoseOfSha256sum asks the program whose form it is: only the digits differ.
func TestLinesAreThoseOfSha256sum(t *testing.T) {
	if _, err := exec.LookPath("sha256sum"); err != nil {
		t.Skip("sha256sum is not installed (coreutils)")
	}
	dir := t.TempDir()
	for _, name := range []string{"plain", "two words", `back\slash`, "line\nend", "-dash", "*star", "ünïcode"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		cmd := exec.Command("sha256sum", "--", name)
		cmd.Dir = dir
		out, err := cmd.Output()
		require.NoError(t, err)
		empty, err := hex.DecodeString("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
		require.NoError(t, err)
		assert.Equal(t, string(out), formatMACLine(empty, name))
	}
}

// FuzzMACLine: what is read is written back the same, but for the two forms that reading also takes.
func FuzzMACLine(f *testing.F) {
	digits := hex.EncodeToString(sampleTag)
	for _, line := range []string{digits + "  file", `\` + digits + `  a\nb`, digits + " *file", "x"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		tag, name, ok := parseMACLine(line, 32)
		if !ok {
			return
		}
		again, same, ok := parseMACLine(strings.TrimSuffix(formatMACLine(tag, name), "\n"), 32)
		require.True(t, ok)
		assert.Equal(t, tag, again)
		assert.Equal(t, name, same)
		if name == "" {
			t.Error("a line without a name was taken")
		}
	})
}
