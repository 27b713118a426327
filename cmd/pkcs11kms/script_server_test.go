package main

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// runningServers are the servers of one script by their names.
type runningServers map[string]*background

// serversKey finds them in the script's values.
type serversKey struct{}

func serversOf(ts *testscript.TestScript) runningServers {
	return ts.Value(serversKey{}).(runningServers)
}

// newServers makes the place for the servers of a script, which end with it.
func newServers(env *testscript.Env) {
	servers := runningServers{}
	env.Values[serversKey{}] = servers
	env.Defer(func() {
		for server := range maps.Values(servers) {
			_, _ = server.stop(os.Kill) // the script has failed and says why
		}
	})
}

// serve starts a server on a port that the system chooses and waits until it is ready. Its addresses are in the variables
// NAME_URL and NAME_ADMIN then: serve NAME [ARGUMENT...]
func serve(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command("pkcs11kms", append(append([]string{"serve"}, anyPort...), args[1:]...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = scriptEnvironment(ts)
	server, err := launch(cmd)
	ts.Check(err)
	serversOf(ts)[args[0]] = server
	ts.Setenv(args[0]+"_URL", server.url)
	ts.Setenv(args[0]+"_ADMIN", server.admin)
}

// terminate ends a server by SIGTERM and checks its exit code; what it wrote goes to the files NAME.out and NAME.err:
// terminate CODE NAME
func terminate(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	server := serversOf(ts)[args[1]]
	delete(serversOf(ts), args[1])
	code, err := server.stop(syscall.SIGTERM)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]+".out"), []byte(server.out.String()), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]+".err"), []byte(server.log.String()), 0o600))
	if code != want {
		ts.Fatalf("the server's exit code is %d in place of %d\n%s", code, want, server.log)
	}
}

// refused runs a command until it is refused with the exit code 1 and a line that holds a text. What one process changes
// reaches another within a second: refused TEXT COMMAND...
func refused(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Dir = ts.MkAbs(".")
		cmd.Env = scriptEnvironment(ts)
		_, err := cmd.Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == exitRefused && bytes.Contains(exit.Stderr, []byte(args[0])) {
			return
		}
	}
	ts.Fatalf("not refused by %q", args[0])
}

// accessKeyFor makes an access key of the state directory and puts it where the AWS SDK looks: access-key
func accessKeyFor(ts *testscript.TestScript, _ bool, _ []string) {
	capture(ts, false, []string{"ACCESS_KEY", "pkcs11kms", "iam", "create-access-key",
		"--query", "AccessKey.[AccessKeyId,SecretAccessKey]", "--output", "text"})
	id, secret, _ := strings.Cut(ts.Getenv("ACCESS_KEY"), "\t")
	ts.Setenv("AWS_ACCESS_KEY_ID", id)
	ts.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	if ts.Getenv("AWS_REGION") == "" {
		ts.Setenv("AWS_REGION", pkcs11kms.DefaultRegion)
	}
}

// certificate makes a self-signed certificate, NAME.crt, and its key, NAME.key: certificate NAME
func certificate(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(makeCertificate(ts.MkAbs(args[0]+".crt"), ts.MkAbs(args[0]+".key"), 1))
}
