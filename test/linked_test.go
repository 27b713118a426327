package test

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Templates call methods by names that the linker cannot know, so that it keeps every method of every type: five megabytes, most of
// them of the AWS SDK. Nothing in the command executes one.
func TestTheCommandExecutesNoTemplate(t *testing.T) {
	file := executable(t, realBinary)
	symbols, err := exec.Command(tool(t, "go", "go"), "tool", "nm", file).Output()
	require.NoError(t, err)
	require.True(t, bytes.Contains(symbols, []byte(" main.main\n")), "the symbols are there")
	require.False(t, bytes.Contains(symbols, []byte(" text/template.(*state).evalField\n")))
}

// What packages make before main begins, every command pays for in time, and a server in memory for good. One expression that counted
// characters up to 256 once took ten megabytes and as many milliseconds.
func TestPackagesMakeLittleBeforeMain(t *testing.T) {
	cmd := exec.Command(executable(t, realBinary), "version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	seen := 0
	for _, m := range regexp.MustCompile(`(?m)^init (\S+) .* (\d+) bytes, \d+ allocs$`).FindAllStringSubmatch(string(out), -1) {
		bytes, err := strconv.Atoi(m[2])
		require.NoError(t, err)
		if strings.Contains(m[1], "/pkcs11kms/") { // others make more where there is the race detector
			seen++
			assert.Less(t, bytes, 1<<20, m[1])
		}
	}
	require.NotZero(t, seen, "the trace is there: %s", out)
}
