package clients

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pkcs11kms/bridge/softhsm"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := removeBinary(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// binaryDir holds the product's binary, from its building to the end of the run.
var binaryDir string

// ownBinary builds the product's binary once in a run.
var ownBinary = sync.OnceValues(func() (string, error) {
	var err error
	if binaryDir, err = os.MkdirTemp("", "pkcs11kms-test-"); err != nil {
		return "", err
	}
	file := filepath.Join(binaryDir, "pkcs11kms")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", file, "./cmd/pkcs11kms")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the binary: %w\n%s", err, out)
	}
	return file, nil
})

func removeBinary() error {
	if binaryDir == "" {
		return nil
	}
	return os.RemoveAll(binaryDir)
}

// missing skips the test, or fails it where the part is required.
func missing(t *testing.T, part, reason string) {
	t.Helper()
	for required := range strings.SplitSeq(os.Getenv(softhsm.EnvRequire), ",") {
		if required = strings.TrimSpace(required); required == part || required == "all" {
			t.Fatalf("%s=%s: %s", softhsm.EnvRequire, os.Getenv(softhsm.EnvRequire), reason)
		}
	}
	t.Skip(reason)
}

// locate finds a program: the system's own before one that a developer has put into PATH.
func locate(name string) (string, error) {
	if path, err := exec.LookPath(filepath.Join("/usr/bin", name)); err == nil {
		return path, nil
	}
	return exec.LookPath(name)
}

// requirement is a program of a certain kind, looked for once in a run.
type requirement struct {
	part    string // what PKCS11KMS_REQUIRE calls it
	program string
	args    []string // succeed with a program of that kind
	prints  string   // what it prints then, if that matters
	needed  string   // in words
	once    sync.Once
	path    string
	err     error
}

// find returns the program's path. It skips the test without it, or fails it where the part is required.
func (r *requirement) find(t *testing.T) string {
	t.Helper()
	r.once.Do(func() { r.path, r.err = r.look() })
	if r.err != nil {
		missing(t, r.part, fmt.Sprintf("%s is missing: %v", r.needed, r.err))
	}
	return r.path
}

func (r *requirement) look() (string, error) {
	path, err := locate(r.program)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, r.args...).CombinedOutput()
	if err == nil && !strings.Contains(string(out), r.prints) {
		err = errors.New("it is of another version")
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", path, strings.Join(r.args, " "), err, out)
	}
	return path, nil
}

var (
	// Version 1 has other exit codes, and takes binary members in other forms.
	awsCLI = requirement{part: "awscli", program: "aws", args: []string{"--version"}, prints: "aws-cli/2.", needed: "version 2 of the aws CLI"}
	// What Debian's aws is made of; another one's interpreter cannot be had.
	awsPython = requirement{part: "awscli", program: "python3", args: []string{"-c", "import awscli.botocore"},
		needed: "the aws CLI's copy of botocore"}
	boto3 = requirement{part: "boto3", program: "python3", args: []string{"-c", "import boto3"}, needed: "boto3"}
	pyJWT = requirement{part: "pyjwt", program: "python3", args: []string{"-c", "import jwt, cryptography"}, needed: "PyJWT with cryptography"}
	node  = requirement{part: "js", program: "node", needed: "Node.js 18 or newer",
		args: []string{"-e", "process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)"}}
	openssl = requirement{part: "openssl", program: "openssl", args: []string{"version"}, needed: "openssl"}
	npm     = requirement{part: "js", program: "npm", args: []string{"--version"}, needed: "npm"}
	goCmd   = requirement{part: "go", program: "go", args: []string{"version"}, needed: "go"}
)
