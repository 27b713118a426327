package clients

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func newAWSCLI(t *testing.T) client {
	line := commandLine{t: t, program: awsCLI.find(t), before: []string{"kms"}, refused: 254, usage: 252,
		unknown: regexp.MustCompile(`Unknown options|argument operation: (Found i|I)nvalid choice`)}
	return client{call: line.call, model: awsModel}
}

// awsModel reads the model that the aws CLI has in its own copy of botocore.
func awsModel(t *testing.T, _ target) (operations []string) {
	t.Helper()
	const script = `import json, awscli.botocore.session as s; print(json.dumps(s.get_session().get_service_model("kms").operation_names))`
	text, err := process(t, environment(t), awsPython.find(t), "-c", script).Output()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &operations))
	return operations
}

// newOwnCommand has the product's binary, which reports refusals in the words of the aws CLI.
func newOwnCommand(t *testing.T) client {
	goCmd.find(t)
	binary, err := ownBinary()
	require.NoError(t, err)
	line := commandLine{t: t, program: binary, refused: 1, usage: 2, unknown: regexp.MustCompile("pkcs11kms: unknown command")}
	model := func(*testing.T, target) []string {
		return slices.DeleteFunc(goModel(), func(operation string) bool { return withoutVerb[operation] != "" })
	}
	return client{call: line.call, followsClock: true, model: model}
}

// report is how both say that the service refused: code, operation, message.
var report = regexp.MustCompile(`(?m)^An error occurred \((\w+)\) when calling the (\w+) operation: ?(.*)$`)

// commandLine is a program that has a verb for each operation and a flag for each member. Calls may be made at the same
// time.
type commandLine struct {
	t       *testing.T
	program string
	before  []string       // arguments before the verb
	refused int            // the exit code when the service refuses
	usage   int            // the exit code when the program does not know a flag or a verb
	unknown *regexp.Regexp // what it says then
	files   atomic.Int32   // of messages
}

func (l *commandLine) call(c command) (answer, error) {
	args, err := l.arguments(c)
	if err != nil {
		return answer{}, err
	}
	env := environment(l.t, "AWS_ACCESS_KEY_ID="+c.Target.AccessKey, "AWS_SECRET_ACCESS_KEY="+c.Target.Secret)
	var stdout, stderr bytes.Buffer
	cmd := process(l.t, env, l.program, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	exit, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case failed && exit.ExitCode() == l.refused:
		return readReport(c.Operation, stderr.String())
	case failed && exit.ExitCode() == l.usage && l.unknown.MatchString(stderr.String()):
		return answer{Unknown: true}, nil
	case err != nil:
		return answer{}, fmt.Errorf("%s: %w\n%s", c.Operation, err, stderr.Bytes())
	}
	var got answer
	if stdout.Len() == 0 {
		return got, nil
	}
	return got, json.Unmarshal(stdout.Bytes(), &got.Output)
}

func readReport(operation, text string) (answer, error) {
	parts := report.FindStringSubmatch(text)
	if parts == nil || parts[2] != operation {
		return answer{}, fmt.Errorf("%s was reported as: %s", operation, text)
	}
	return answer{Refusal: &refusal{Code: parts[1], Message: parts[3]}}, nil
}

// arguments turns GenerateMac into generate-mac, and KeyId into --key-id. Lists are paged by --page-size, and
// what is no text and no list of texts is given as JSON.
func (l *commandLine) arguments(c command) ([]string, error) {
	args := append(append([]string{}, l.before...), dashed(c.Operation))
	for name, value := range c.Input {
		flag := "--" + dashed(name)
		switch value := value.(type) {
		case bool:
			args = append(args, flag)
		case int:
			args = append(args, strings.Replace(flag, "--limit", "--page-size", 1), fmt.Sprint(value))
		case string:
			if name == "Message" {
				file, err := l.file(value)
				if err != nil {
					return nil, err
				}
				value = "fileb://" + file
			}
			args = append(args, flag, value)
		case []string:
			args = append(append(args, flag), value...)
		default:
			text, err := json.Marshal(value)
			if err != nil {
				return nil, err
			}
			args = append(args, flag, string(text))
		}
	}
	return append(args, "--endpoint-url", c.Target.Endpoint, "--region", c.Target.Region, "--output", "json"), nil
}

// file writes a message, given in base64, to a file.
func (l *commandLine) file(message string) (string, error) {
	data, err := base64.StdEncoding.DecodeString(message)
	if err != nil {
		return "", err
	}
	name := filepath.Join(l.t.TempDir(), fmt.Sprint("message-", l.files.Add(1)))
	return name, os.WriteFile(name, data, 0o600)
}

var upper = regexp.MustCompile(`[A-Z]+`)

func dashed(name string) string {
	return strings.TrimPrefix(strings.ToLower(upper.ReplaceAllString(name, "-$0")), "-")
}
