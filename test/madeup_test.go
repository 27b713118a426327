package test

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whoever adds a row to the table of operations learns from failing tests what the operation still needs.
func TestARowAloneFails(t *testing.T) {
	for pkg, want := range map[string]struct {
		tests   string
		missing []string
	}{
		"pkcs11kms": {"TestTheTableOfOperationsIsImplemented", []string{
			"MadeUp is no operation of the SDK",
			"MadeUp: its input has no constraints in internal/form",
			"MadeUp is a method of Client",
		}},
		"pkcs11kms/server": {"TestTheTableOfOperationsIsServed", []string{"MadeUp has a row and is not served"}},
	} {
		t.Run(pkg, func(t *testing.T) {
			command := exec.CommandContext(t.Context(), "go", "test", "-tags", "madeup", "-run", "^"+want.tests+"$", "./"+pkg)
			command.Dir = ".."
			out, err := command.CombinedOutput()
			require.Error(t, err, "the row is enough")
			for _, text := range want.missing {
				assert.Contains(t, string(out), text)
			}
		})
	}
}
