package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// text is a string of the source, with what is put in at run time as "…".
type text struct{ at, value string }

// textsOf returns every string that the program's own source puts together, by whatever package.
func textsOf(t *testing.T) (texts []text) {
	t.Helper()
	set := token.NewFileSet()
	visit := func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			expr, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			value, known := joined(expr)
			if known {
				texts = append(texts, text{set.Position(expr.Pos()).String(), value})
			}
			return !known
		})
		return nil
	}
	for _, dir := range []string{"cmd", "keystore", "pkcs11kms", "softhsm"} {
		require.NoError(t, filepath.WalkDir(filepath.Join("../..", dir), visit))
	}
	return texts
}

// joined is the value of a string literal, or of a sum that has one.
func joined(expr ast.Expr) (value string, known bool) {
	switch e := expr.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			value, err := strconv.Unquote(e.Value)
			return value, err == nil
		}
	case *ast.BinaryExpr:
		left, leftKnown := joined(e.X)
		right, rightKnown := joined(e.Y)
		if e.Op == token.ADD && (leftKnown || rightKnown) {
			return left + right, true
		}
	}
	return "…", false
}

// prose are the words that follow the program's name where no command is meant.
var prose = []string{"that", "server", "was", "test", "internal", "never", "answers", "secret", "probe",
	"session", "import", "imported"}

// TestCommandsInTextsExist: whatever hint, help or message names a command of ours names one that is there, with flags that it has.
// Of a hint this much can be held without being in the situation that it is for; TestHintsAreFollowed is in some.
func TestCommandsInTextsExist(t *testing.T) {
	root := (&app{}).rootCommand()
	commands := regexp.MustCompile(`pkcs11kms ([a-z][a-z-]*)([^\n;…|]*)`)
	flags := regexp.MustCompile(`--([a-z][a-z-]+)`)
	found := 0
	for _, text := range textsOf(t) {
		for _, match := range commands.FindAllStringSubmatch(text.value, -1) {
			cmd, _, err := root.Find(strings.Fields(match[1] + " " + strings.SplitN(match[2], " -", 2)[0]))
			if err != nil || cmd == root {
				assert.Contains(t, prose, match[1], "%s: %q is no command", text.at, match[0])
				continue
			}
			found++
			for _, flag := range flags.FindAllStringSubmatch(match[2], -1) {
				assert.True(t, flagOf(cmd, flag[1]), "%s: %q: %s has no flag --%s", text.at, match[0], cmd.CommandPath(), flag[1])
			}
		}
	}
	assert.Greater(t, found, 100)
}

// TestFlagsInTextsExist: a flag that a text names without a command is one of some command of ours, or of another program's.
func TestFlagsInTextsExist(t *testing.T) {
	others := []string{"set-id", "login", "module", "type", "init-token", "free", "sign", "aws-sigv4"}
	flags := regexp.MustCompile(`(?:^|[\s(,])--([a-z][a-z0-9-]+[a-z0-9])`)
	all := verbs(t)
	for _, text := range textsOf(t) {
		for _, flag := range flags.FindAllStringSubmatch(text.value, -1) {
			known := slices.ContainsFunc(all, func(cmd *cobra.Command) bool { return flagOf(cmd, flag[1]) })
			assert.True(t, known || slices.Contains(others, flag[1]), "%s: %q: no command has --%s", text.at, text.value, flag[1])
		}
	}
}

func flagOf(cmd *cobra.Command, name string) bool {
	return name == "help" || name == "version" || cmd.Flags().Lookup(name) != nil || cmd.InheritedFlags().Lookup(name) != nil
}

// situations put a command line into trouble; each shows a hint with commands. Before them stands a shell script.
var situations = map[string]struct{ before, line string }{
	"no state directory is named": {"unset PKCS11KMS_STATE_DIR", "pkcs11kms list-keys"},
	"there is none":               {"", "pkcs11kms list-keys --state-dir 'a new/one'"},
	"an init was killed":          {"mkdir -p -m 700 left/tokens && touch left/.init left/pin", "pkcs11kms list-keys --state-dir left"},
	"a wrong PIN at the first init": {"printf 12345 > wrong; chmod 600 wrong",
		"pkcs11kms init --token \"$TOKEN&pin-source=file:$PWD/wrong\" --region eu-west-1 --state-dir \"$PWD/it's\""},
	"a wrong PIN":           {"export PKCS11KMS_PIN=12345", "pkcs11kms describe-key --state-dir kms --region us-east-1 --key-id $KEY"},
	"the same in doctor":    {"export PKCS11KMS_PIN=12345", "pkcs11kms doctor --crosscheck --state-dir kms"},
	"the directory is open": {"chmod 755 kms", "pkcs11kms list-keys --state-dir kms"},
	"nobody is asked":       {"", "pkcs11kms doctor --state-dir kms --destroy-object 0a1b </dev/null"},
	"the object is a key's": {"", "pkcs11kms doctor --state-dir kms --yes --destroy-object $CKAID"},
	"a key whose answer is not shown": {"",
		"pkcs11kms create-key --state-dir kms --key-spec HMAC_256 --key-usage GENERATE_VERIFY_MAC > /dev/full"},
	"a deletion whose answer is not shown": {"",
		"pkcs11kms schedule-key-deletion --state-dir kms --region us-east-1 --key-id $KEY --output table >/dev/full"},
	"an access key whose secret is not shown": {"", "pkcs11kms iam create-access-key --state-dir kms > /dev/full"},
}

// TestHintsAreFollowed runs the commands that hints name, as they stand, in the shell where the hint was shown: none is a wrong
// command line, and none says that the state directory is not known.
func TestHintsAreFollowed(t *testing.T) {
	p := newProgram(t)
	setup := p.command("sh", "-c", `echo "export TOKEN='pkcs11:token=pkcs11kms?module-path=$MODULE' SOFTHSM2_CONF='$PWD/kms/softhsm2.conf'"`)
	setup.Env = append(setup.Env, "MODULE="+requireSoftHSM(t))
	token, err := setup.Output()
	require.NoError(t, err)
	ckaID := strings.TrimSpace(p.must("doctor", "--json"))
	ckaID = regexp.MustCompile(`"cka_id": "([0-9a-f]+)"`).FindStringSubmatch(ckaID)[1]
	placeholders := strings.NewReplacer("--key-id ID", "--key-id "+p.key, "state-dir DIR", "state-dir dir")
	for name, s := range situations {
		t.Run(name, func(t *testing.T) {
			shell := func(script string) (string, int) {
				cmd := p.command("sh", "-c", "unset PKCS11KMS_STATE_DIR\n"+string(token)+"KEY="+p.key+" CKAID="+ckaID+"\n"+s.before+"\n"+script)
				out, _ := cmd.CombinedOutput()
				return string(out), cmd.ProcessState.ExitCode()
			}
			defer p.restore(t)()
			out, code := shell(s.line)
			require.NotZero(t, code, out)
			hints := regexp.MustCompile(`(?m)hint: (.*)$`).FindAllStringSubmatch(out, -1)
			require.NotEmpty(t, hints, out)
			followed := 0
			for _, hint := range hints {
				command := regexp.MustCompile(`pkcs11kms [a-z].*|chmod .*`).FindString(placeholders.Replace(hint[1]))
				if command == "" || strings.Contains(command, "LABEL") || strings.HasSuffix(command, "--help") {
					continue
				}
				followed++
				out, code := shell(command)
				assert.NotEqual(t, 2, code, "%s\n%s", command, out)
				assert.NotEqual(t, 127, code, "%s\n%s", command, out)
				assert.NotContains(t, out, "no state directory is given", command)
			}
			assert.Positive(t, followed, out)
		})
	}
}

// restore keeps a copy of the state directory and returns the function that puts it back.
func (p *program) restore(t *testing.T) func() {
	t.Helper()
	require.NoError(t, p.command("cp", "-a", "kms", "kept").Run())
	return func() {
		assert.NoError(t, p.command("sh", "-c", "rm -r kms && mv kept kms").Run())
	}
}
