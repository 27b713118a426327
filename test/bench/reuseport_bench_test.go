package bench

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

// BenchmarkTwoProcesses measures the rate of GenerateMac with 64 connections to two processes on one port, beside one process.
func BenchmarkTwoProcesses(b *testing.B) {
	one, two := served64(b, 1), served64(b, 2)
	inTurns(b, 8, two, one)
	b.ReportMetric(float64(b.N)/two.wall.Seconds(), "req/s")
	b.ReportMetric(100*float64(one.wall)/float64(two.wall), "%-of-one")
	b.ReportMetric(two.percentile(99)/max(one.percentile(99), 1), "x-p99-of-one")
}

// served64 starts some processes on one port, on a token and a state directory of their own, and makes 64 connections.
func served64(b *testing.B, processes int) *load {
	tok := softhsm.NewToken(b)
	dir := filepath.Join(b.TempDir(), "state")
	command := commandsOf(b, tok, dir)
	command("init", "--token", tok.URI(tok.PINFile))
	withoutRates(b, dir)
	var access struct {
		AccessKey struct{ AccessKeyId, SecretAccessKey string }
	}
	require.NoError(b, json.Unmarshal(command("iam", "create-access-key"), &access))
	var key struct{ KeyMetadata struct{ KeyId string } }
	require.NoError(b, json.Unmarshal(command("create-key", "--key-spec", string(types.KeySpecHmac256),
		"--key-usage", string(types.KeyUsageTypeGenerateVerifyMac)), &key))
	_, address := startServe(b, tok, dir, "--reuse-port")
	for range processes - 1 {
		_, other := startServe(b, tok, dir, "--reuse-port", "--listen", address)
		require.Equal(b, address, other)
	}
	s := served{address, access.AccessKey.AccessKeyId, access.AccessKey.SecretAccessKey, key.KeyMetadata.KeyId}
	l := &load{requests: requests(b, s)}
	for range 64 {
		c := connect(b, address, l.requests[0])
		b.Cleanup(func() { c.Close() })
		l.connections = append(l.connections, c)
	}
	return l
}
