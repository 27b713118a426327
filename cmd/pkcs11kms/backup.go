package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

func (a *app) backupCommand() *cobra.Command {
	cmd := verb(groupSetup, "backup FILE", "Back up the keys' metadata, while servers go on",
		"Writes one moment of the store to a new file: every change that was acknowledged before is in it. The file is\n"+
			"verified, and never replaces another. It holds no keys: those are in the token, which must be backed up by its\n"+
			"own means, after the store.",
		"pkcs11kms backup kms.backup")
	cmd.Annotations = map[string]string{allRegions: ""}
	cmd.Args = oneFile
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		file, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		return a.withBridge(cmd.Context(), func(bridge *pkcs11kms.Bridge) error {
			if err := statedir.Backup(cmd.Context(), bridge, file); err != nil {
				return err
			}
			made := change{fmt.Sprintf("writing backup %q", args[0]), "it is complete: the token is next"}
			return made.shown(a.printf("wrote the backup %s\nnext: back up the token, which holds the keys themselves\n", args[0]))
		})
	}
	return cmd
}

func (a *app) restoreCommand() *cobra.Command {
	cmd := verb(groupSetup, "restore FILE [flags]", "Put a backup in a state directory that has no store",
		"The directory must have its config.yaml and must not have a store: none is ever replaced. The whole backup is\n"+
			"verified first. Keys that were half made or half deleted are left out, and deletions that are due within\n"+
			"seven days are put off to seven days from now; each is told. The token is not touched. Run doctor afterwards.",
		"pkcs11kms restore kms.backup --state-dir ./kms")
	cmd.Annotations = map[string]string{allRegions: ""}
	cmd.Args = oneFile
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := a.directory()
		if err != nil {
			return err
		}
		file, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		done, err := statedir.Restore(cmd.Context(), dir, file)
		if err != nil {
			return err
		}
		doctor := "pkcs11kms doctor --state-dir " + shellQuote(dir)
		made := change{fmt.Sprintf("restoring %q to %q", args[0], dir), "to see how it fits the token: " + doctor}
		return made.shown(a.printf("restored %s to the state directory %s\n%s\nnext:\n  %s\n", args[0], dir, indented(done), doctor))
	}
	return cmd
}

func indented(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "  %s\n", oneLine(line))
	}
	return b.String()
}

// oneFile wants the name of one file and nothing else.
func oneFile(_ *cobra.Command, args []string) error {
	if len(args) == 0 || args[0] == "" {
		return usagef("the following arguments are required: FILE")
	}
	return noArguments(nil, args[1:])
}
