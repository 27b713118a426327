package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/softhsm"
)

// quietFor is how long the server's CPU time is looked at while nobody asks for anything.
const quietFor = 10 * time.Second

// BenchmarkQuiet measures what a server takes that nobody uses: CPU time, and memory beyond that of a C program which has the same token
// initialised; with 100 keys that were used, and with 10,000 records that were and 1,000 connections.
func BenchmarkQuiet(b *testing.B) {
	tok := softhsm.NewToken(b)
	dir := filepath.Join(b.TempDir(), "state")
	command := commandsOf(b, tok, dir)
	command("init", "--token", tok.URI(tok.PINFile))
	withoutRates(b, dir)
	store, err := sqlite.Open(context.Background(), filepath.Join(dir, "kms.db"), sqlite.Options{})
	require.NoError(b, err)
	records := fill(b, store, 10_000)
	require.NoError(b, store.Close())
	command("doctor", "--seal", "--yes") // nobody believes records that are just there
	var access struct {
		AccessKey struct{ AccessKeyId, SecretAccessKey string }
	}
	require.NoError(b, json.Unmarshal(command("iam", "create-access-key"), &access))
	server, address := startServe(b, tok, dir)
	least := resident(b, startLeast(b, tok))

	client := func() *kms.Client {
		return kms.New(kms.Options{Region: region, BaseEndpoint: aws.String("http://" + address),
			HTTPClient:  &http.Client{Transport: &http.Transport{}}, // connections of its own
			Credentials: credentials.NewStaticCredentialsProvider(access.AccessKey.AccessKeyId, access.AccessKey.SecretAccessKey, "")})
	}
	one, ctx := client(), context.Background()
	for range 100 {
		made, err := one.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
		require.NoError(b, err)
		_, err = one.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: made.KeyMetadata.KeyId, MacAlgorithm: types.MacAlgorithmSpecHmacSha256,
			Message: message32})
		require.NoError(b, err)
	}
	before := cpuOf(b, server)
	time.Sleep(quietFor)
	b.ReportMetric(100*float64(cpuOf(b, server)-before)/float64(quietFor), "%-cpu")
	b.ReportMetric(mib(resident(b, server)-least), "MiB-more/C")

	var wg sync.WaitGroup
	connections := make([]*kms.Client, 1000)
	for i := range connections {
		connections[i] = client()
		wg.Go(func() {
			for at := i; at < len(records); at += len(connections) {
				if _, err := connections[i].DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &records[at]}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(mib(resident(b, server)-least), "MiB-more/C-busy")
	runtime.KeepAlive(connections)
}

// withoutRates takes the request rates out of a configuration.
func withoutRates(b *testing.B, dir string) {
	config, err := os.OpenFile(filepath.Join(dir, "config.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(b, err)
	_, err = config.WriteString("quotas:\n  rates: \"off\"\n")
	require.NoError(b, errors.Join(err, config.Close()))
}

// commandsOf builds the binary, and runs it on a state directory.
func commandsOf(b *testing.B, tok softhsm.TestToken, dir string) func(args ...string) (stdout []byte) {
	return func(args ...string) []byte {
		cmd := exec.Command(binary(b), args...)
		cmd.Env = append(append(os.Environ(), tok.Env()...), "PKCS11KMS_STATE_DIR="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		require.NoError(b, err)
		return out
	}
}

// binary is the path of the program.
func binary(b *testing.B) string {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("pkcs11kms-bench-%d", os.Getpid()))
	if _, err := os.Stat(path); err != nil { // once in the process
		out, err := exec.Command("go", "build", "-o", path, "github.com/pkcs11kms/bridge/cmd/pkcs11kms").CombinedOutput()
		require.NoError(b, err, "%s", out)
		b.Cleanup(func() { require.NoError(b, os.Remove(path)) })
	}
	return path
}

// startServe starts the server, which ends with the benchmark.
func startServe(b *testing.B, tok softhsm.TestToken, dir string, flags ...string) (pid int, address string) {
	cmd := exec.Command(binary(b), append([]string{"serve", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--log-requests", "off"},
		flags...)...)
	cmd.Env = append(append(os.Environ(), tok.Env()...), "PKCS11KMS_STATE_DIR="+dir)
	first := start(b, cmd)
	return cmd.Process.Pid, strings.TrimPrefix(strings.Fields(first)[1], "http://")
}

// start starts a process that ends with the benchmark, and returns the first line that it prints.
func start(b *testing.B, cmd *exec.Cmd) string {
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		require.NoError(b, cmd.Process.Signal(syscall.SIGTERM))
		_ = cmd.Wait() // one of them does not know the signal
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(b, err)
	return line
}

// least is the program that has a token initialised and a session logged in, and has found its objects.
const least = `
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
typedef unsigned long ulong;
struct functions { unsigned char version[2]; void *list[68]; };
int main(int n, char **args)
{
	struct functions *f;
	ulong slots[16], count = 16, session, objects[256], found;
	void *module = dlopen(args[1], RTLD_NOW);
	((ulong (*)(struct functions **))dlsym(module, "C_GetFunctionList"))(&f);
	ulong rv = ((ulong (*)(void *))f->list[0])(NULL);
	rv |= ((ulong (*)(unsigned char, ulong *, ulong *))f->list[4])(1, slots, &count);
	rv |= ((ulong (*)(ulong, ulong, void *, void *, ulong *))f->list[12])(slots[0], 6, NULL, NULL, &session);
	rv |= ((ulong (*)(ulong, ulong, char *, ulong))f->list[18])(session, 1, args[2], strlen(args[2]));
	rv |= ((ulong (*)(ulong, void *, ulong))f->list[26])(session, NULL, 0);
	rv |= ((ulong (*)(ulong, ulong *, ulong, ulong *))f->list[27])(session, objects, 256, &found);
	rv |= ((ulong (*)(ulong))f->list[28])(session);
	printf("%lx %lu\n", rv, found);
	fflush(stdout);
	pause();
}
`

// startLeast builds and starts the program.
func startLeast(b *testing.B, tok softhsm.TestToken) (pid int) {
	dir := b.TempDir()
	source, path := filepath.Join(dir, "least.c"), filepath.Join(dir, "least")
	require.NoError(b, os.WriteFile(source, []byte(least), 0o600))
	out, err := exec.Command("cc", "-o", path, source, "-ldl").CombinedOutput()
	require.NoError(b, err, "%s", out)
	cmd := exec.Command(path, tok.Module, tok.PIN())
	cmd.Env = append(os.Environ(), tok.Env()...)
	require.Regexp(b, "^0 [1-9]", start(b, cmd), "return values, and how many objects there are")
	return cmd.Process.Pid
}

// resident is the memory of a process, in bytes.
func resident(b *testing.B, pid int) int64 {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	require.NoError(b, err)
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	require.NoError(b, err)
	return pages * int64(os.Getpagesize())
}

// cpuOf is the CPU time that a process has used, to a hundredth of a second.
func cpuOf(b *testing.B, pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(b, err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime, see proc(5)
		n, err := strconv.ParseInt(field, 10, 64)
		require.NoError(b, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// BenchmarkCachedKey measures what one more key in use costs in memory of Go. (Of the token's own, it tells nothing.)
func BenchmarkCachedKey(b *testing.B) {
	r := setUp(b)
	s := &sized{client: r.client}
	use := func(ids []string) int64 {
		for _, id := range ids {
			for range 3 {
				require.NoError(b, s.mac(id))
			}
		}
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	keys := r.keys(b, r.store, 2*coldKeys)
	before := use(keys[:coldKeys])
	b.ReportMetric(float64(use(keys[coldKeys:])-before)/coldKeys, "B/key")
}
