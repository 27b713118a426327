package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		GroupID: groupMore,
		Short:   "Print the version",
		Long:    "Print the version.\n\nPrints the module's version, the commit it was built from, and the Go version.",
		Example: "  pkcs11kms version",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			return a.printf("pkcs11kms %s (%s %s/%s)\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

// version is what the Go tool noted in the binary. A build from a checkout carries the commit in it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
