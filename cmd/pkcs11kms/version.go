package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
)

// release is what "make build" notes of the checkout: the tag, the commit since, and whether files were changed
// (git describe). It is written by the linker, and empty in other builds.
var release string

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		GroupID: groupMore,
		Short:   "Print the version",
		Long: "Print the version.\n\nPrints the module's version or the commit it was built from, and the Go version, as --version and -v do;\n" +
			"in FIPS 140-3 mode that mode and the version of the Go Cryptographic Module too.",
		Example: "  pkcs11kms version",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			return a.write([]byte("pkcs11kms version " + versionText() + "\n"))
		},
	}
}

// versionText is what follows "pkcs11kms version" in the line that cobra prints for --version.
func versionText() string {
	mode := ""
	if f := doctor.RunningFIPS140(); f.Mode != "off" {
		mode = ", " + f.String()
	}
	return fmt.Sprintf("%s (%s %s/%s%s)", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH, mode)
}

// unknownVersion is that of a build of which nothing was noted, as one from an unpacked archive by plain "go build".
const unknownVersion = "(unknown: built without version control)"

// version is what was noted in the binary: by make, or else by the Go tool, which knows the tag of a module that it has
// downloaded and the commit of a checkout.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return unknownVersion
	}
	return info.Main.Version
}
