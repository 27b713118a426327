package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commandText finds the commands of this program in a text: the name and the words behind it, which may be a verb.
var commandText = regexp.MustCompile(`pkcs11kms((?: [a-z][a-z-]*)+)`)

// followable makes the commands in a hint such that they can be run as they stand where the hint is shown: on the state directory,
// the region or the server that this command line has named by flags.
func (a *app) followable(hint string) string {
	if a.ran == nil {
		return hint
	}
	lines := strings.SplitAfter(hint, "\n")
	for i, line := range lines {
		if at := commandText.FindStringSubmatchIndex(line); at != nil {
			lines[i] = a.followableLine(line, strings.Fields(line[at[2]:at[3]]), at[0]+len("pkcs11kms"))
		}
	}
	return strings.Join(lines, "")
}

// followableLine puts flags behind the verb of the command that is in a line, whose words begin at a place.
func (a *app) followableLine(line string, words []string, begin int) string {
	target, _, err := a.ran.Root().Find(words)
	if err != nil || !target.HasParent() {
		return line // prose
	}
	verb := strings.TrimPrefix(target.CommandPath(), target.Root().Name())
	end := begin + len(verb)
	var more strings.Builder
	a.ran.Flags().Visit(func(f *pflag.Flag) {
		if a.carries(target, f) && !strings.Contains(line, "--"+f.Name) {
			more.WriteString(" --" + f.Name)
			if f.NoOptDefVal == "" {
				more.WriteString(" " + shellQuote(f.Value.String()))
			}
		}
	})
	return line[:end] + more.String() + line[end:]
}

// carries tells whether the command of a hint needs a flag that this command line has. Where init is to be run again, it is with all
// of them; every other command in a hint has its own.
func (a *app) carries(target *cobra.Command, f *pflag.Flag) bool {
	has := func(cmd *cobra.Command, annotation string) bool {
		_, ok := cmd.Annotations[annotation]
		return ok
	}
	switch f.Name {
	case "state-dir":
		return true
	case "endpoint-url":
		// What a hint says of access keys is to be done where the state directory is.
		return has(target, takesEndpoint) && !isIAM(target)
	case "region":
		return !has(target, allRegions)
	}
	return target == a.ran && target.Name() == "init"
}

// isIAM tells whether a command is a verb of "iam".
func isIAM(cmd *cobra.Command) bool { return cmd.HasParent() && cmd.Parent().Name() == "iam" }

func (a *app) printHint(w io.Writer, err error) {
	text := hintOf(err)
	if text == "" {
		return
	}
	for line := range strings.Lines(a.followable(text)) {
		fmt.Fprintf(w, "hint: %s\n", oneLine(strings.TrimSuffix(line, "\n")))
	}
}
