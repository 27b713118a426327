package statedir

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLoadListenConfig appends to a config.yaml what its owner may write about the server.
func TestLoadListenConfig(t *testing.T) {
	dir, _ := initDir(t)
	file := filepath.Join(dir, "config.yaml")
	plain, err := os.ReadFile(file)
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		add  string
		want ListenConfig
		err  string
	}{
		"nothing":   {"", ListenConfig{}, ""},
		"addresses": {"listen: 0.0.0.0:1\nadmin-listen: unix:/run/x\n", ListenConfig{API: "0.0.0.0:1", Admin: "unix:/run/x"}, ""},
		"absolute":  {"tls: {cert: /c, key: /k}\n", ListenConfig{TLSCert: "/c", TLSKey: "/k"}, ""},
		"relative": {"tls: {cert: c, key: tls/k}\n",
			ListenConfig{TLSCert: filepath.Join(dir, "c"), TLSKey: filepath.Join(dir, "tls/k")}, ""},
		"log":            {"log: {requests: errors}\n", ListenConfig{LogRequests: "errors"}, ""},
		"log off":        {"log: {requests: off}\n", ListenConfig{LogRequests: "off"}, ""},
		"shared port":    {"reuse-port: true\n", ListenConfig{ReusePort: true}, ""},
		"no shared port": {"reuse-port: 2\n", ListenConfig{}, "cannot unmarshal"},
		"wrong log":      {"log: {requests: some}\n", ListenConfig{}, "log.requests: \"some\" is not one of all, errors, off"},
		"no key":         {"tls: {cert: /c}\n", ListenConfig{}, "only one of cert and key"},
		"no certificate": {"tls: {key: /k}\n", ListenConfig{}, "only one of cert and key"},
		"misspelt":       {"listens: x\n", ListenConfig{}, "field listens not found"},
		"misspelt below": {"tls: {crt: /c, key: /k}\n", ListenConfig{}, "field crt not found"},
		"wrong type":     {"listen: [x]\n", ListenConfig{}, "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(file, append(append([]byte{}, plain...), tc.add...), 0o600))
			got, err := LoadListenConfig(dir)
			if tc.err == "" {
				require.NoError(t, err)
				require.Equal(t, Services, got.Services, "init writes all")
				got.Services = nil
				require.Equal(t, tc.want, got)
				_, err = Load(dir) // the rest is as it was
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tc.err)
			require.NotContains(t, err.Error(), "in type")
			var hinted interface{ Hint() string }
			require.ErrorAs(t, err, &hinted)
			require.NotEmpty(t, hinted.Hint())
		})
	}
}

// TestLoadListenConfigIsAsCarefulAsLoad: what others may have written names no certificate.
func TestLoadListenConfigIsAsCarefulAsLoad(t *testing.T) {
	_, err := LoadListenConfig(filepath.Join(t.TempDir(), "missing"))
	require.ErrorContains(t, err, "does not exist")
	dir, _ := initDir(t)
	require.NoError(t, os.Chmod(filepath.Join(dir, "config.yaml"), 0o644))
	_, err = LoadListenConfig(dir)
	require.ErrorContains(t, err, "is open to other users")
	require.NoError(t, os.Chmod(dir, 0o755))
	_, err = LoadListenConfig(dir)
	require.ErrorContains(t, err, "is open to other users")
}

// What a server answers is in config.yaml. Where nothing is said, as in a state directory from before there was more, it is AWS KMS alone.
func TestServices(t *testing.T) {
	dir, _ := initDir(t)
	file := filepath.Join(dir, "config.yaml")
	all, err := os.ReadFile(file)
	require.NoError(t, err)
	const line = "services: [kms, sts, iam, cloudtrail]\n"
	require.Contains(t, string(all), line)
	for name, tc := range map[string]struct {
		line string
		want []string
		err  string
	}{
		"nothing":  {"", []string{"kms"}, ""},
		"kms":      {"services: [kms]\n", []string{"kms"}, ""},
		"some":     {"services: [cloudtrail, kms]\n", []string{"cloudtrail", "kms"}, ""},
		"no kms":   {"services: [iam]\n", nil, "services: kms is missing, which a server always answers"},
		"none":     {"services: []\n", nil, "services: kms is missing"},
		"misspelt": {"services: [kms, IAM]\n", nil, "services: \"IAM\" is not one of kms, sts, iam, cloudtrail"},
		"a text":   {"services: kms\n", nil, "cannot unmarshal"},
	} {
		require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(all), line, tc.line, 1)), 0o600))
		got, err := LoadListenConfig(dir)
		if tc.err != "" {
			require.ErrorContains(t, err, tc.err, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, tc.want, got.Services, name)
	}
}
