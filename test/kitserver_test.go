package test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// kitServer is a SoftHSM token in a process of its own, which p11-kit serves over a socket: what a network HSM is like.
type kitServer struct {
	token  softhsm.TestToken // as it is behind the server
	client softhsm.TestToken // as clients see it: this process and those that it starts
	socket string
	log    string
	cmd    *exec.Cmd
}

// startKit starts one. Its clients go through a module that sees what they do.
func startKit(t *testing.T) (*kitServer, *faultp11.Module) {
	t.Helper()
	tool(t, "p11-kit", "p11-kit")
	found, err := filepath.Glob("/usr/lib/*/pkcs11/p11-kit-client.so")
	require.NoError(t, err)
	if len(found) == 0 {
		tool(t, "p11-kit", "p11-kit-client.so") // skips, or fails where it is required
	}
	dir := shortDir(t)
	k := &kitServer{token: softhsm.NewToken(t), socket: filepath.Join(dir, "socket"), log: filepath.Join(dir, "log")}
	m := faultp11.New(t, found[0])
	k.client = k.token
	k.client.Module = m.Path
	t.Setenv("P11_KIT_SERVER_ADDRESS", "unix:path="+k.socket)
	t.Cleanup(k.kill)
	k.start(t)
	return k, m
}

// start starts the server, and waits until it can be reached.
func (k *kitServer) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(k.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer func() { require.NoError(t, log.Close()) }()
	k.cmd = exec.Command("p11-kit", "server", "--provider", k.token.Module, "-f", "--name", k.socket, "pkcs11:token="+k.token.Label)
	k.cmd.Env = append(os.Environ(), k.token.Env()...)
	k.cmd.Stdout, k.cmd.Stderr = log, log
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it forks a child for each client
	require.NoError(t, k.cmd.Start())
	require.Eventually(t, func() bool {
		conn, err := net.Dial("unix", k.socket)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, patience, pollEvery, "the server is reached")
}

// kill kills the server and its children.
func (k *kitServer) kill() {
	if k.cmd == nil {
		return
	}
	k.signal(syscall.SIGKILL)
	_ = k.cmd.Wait()
	k.cmd = nil
	_ = os.Remove(k.socket)
}

func (k *kitServer) freeze() { k.signal(syscall.SIGSTOP) }
func (k *kitServer) thaw()   { k.signal(syscall.SIGCONT) }

func (k *kitServer) signal(s syscall.Signal) { _ = syscall.Kill(-k.cmd.Process.Pid, s) }
