package test

import (
	"bytes"
	"os/exec"
	"testing"

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
