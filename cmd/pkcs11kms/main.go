// Command pkcs11kms answers the HMAC and signing part of the AWS KMS API from a PKCS#11 token of your own: the verbs, flags and
// output of "aws kms", in process or by a server, that server (serve), its access keys (iam), and a few more of its own
// (init, mac, jwt, adopt-key, doctor, bench, backup, restore). Run it with --help.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	harden()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run does what the command line asks for and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.rootCommand()
	root.SetArgs(spreadLists(args))
	cmd, err := root.ExecuteContextC(ctx)
	return a.report(ctx, cmd, err)
}
