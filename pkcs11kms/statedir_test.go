package pkcs11kms

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

// initDir makes a state directory for the token of one test. (A state directory with a SoftHSM configuration of its own
// needs a process of its own: cmd/pkcs11kms tests it.)
func initDir(t *testing.T) (string, softhsm.TestToken) {
	tok := softhsm.NewToken(t)
	dir := filepath.Join(t.TempDir(), "state")
	require.NoError(t, Init(t.Context(), InitOptions{Dir: dir, AccountID: testAccount, Region: testRegion, Token: tok.URI(tok.PINFile)}))
	return dir, tok
}

func TestInitAndLoad(t *testing.T) {
	dir, tok := initDir(t)
	for name, mode := range map[string]os.FileMode{".": os.ModeDir | 0o700, "config.yaml": 0o600, "kms.db": 0o600, "locks": os.ModeDir | 0o700} {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), name)
	}
	cfg, err := LoadConfig(dir)
	require.NoError(t, err)
	require.Equal(t, testAccount, cfg.AccountID)
	require.Equal(t, testRegion, cfg.DefaultRegion)
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac384)
	require.Equal(t, "arn:aws:kms:us-west-2:111122223333:key/"+*key.KeyId, *key.Arn)
	text, err := os.ReadFile(filepath.Join(dir, "config.yaml"))
	require.NoError(t, err)
	require.NotContains(t, string(text), tok.PIN())
}

func TestInitLeavesNothingBehind(t *testing.T) {
	tok := softhsm.NewToken(t)
	good := tok.URI(tok.PINFile)
	parent := t.TempDir()
	for name, o := range map[string]InitOptions{
		"no such token":  {Token: strings.Replace(good, "token=", "token=x", 1)},
		"malformed URI":  {Token: "pkcs11:nonsense"},
		"malformed id":   {Token: good, AccountID: "12"},
		"odd region":     {Token: good, Region: "Mars"},
		"neither token":  {},
		"both tokens":    {Token: good, SoftHSM: true},
		"slot by number": {Token: strings.Replace(good, "pkcs11:", "pkcs11:slot-id=0;", 1)},
	} {
		o.Dir = filepath.Join(parent, "state")
		require.Error(t, Init(t.Context(), o), name)
		require.NoDirExists(t, o.Dir, name)
		require.NoError(t, os.Mkdir(o.Dir, 0o700))
		require.Error(t, Init(t.Context(), o), name)
		entries, err := os.ReadDir(o.Dir)
		require.NoError(t, err)
		require.Empty(t, entries, name)
		require.NoError(t, os.Remove(o.Dir))
	}
}

func TestInitRefusesWhatIsThere(t *testing.T) {
	dir, tok := initDir(t)
	before, err := os.ReadFile(filepath.Join(dir, "config.yaml"))
	require.NoError(t, err)
	again := InitOptions{Dir: dir, Token: tok.URI(tok.PINFile)}
	require.ErrorContains(t, Init(t.Context(), again), "is a state directory already")
	after, err := os.ReadFile(filepath.Join(dir, "config.yaml"))
	require.NoError(t, err)
	require.Equal(t, before, after)

	other := t.TempDir()
	require.NoError(t, os.Chmod(other, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(other, "precious"), nil, 0o600))
	again.Dir = other
	require.ErrorContains(t, Init(t.Context(), again), "is not empty")
	require.FileExists(t, filepath.Join(other, "precious"))
}

// Whoever claims a directory second must not take back what the first one made in it.
func TestInitsAtOnce(t *testing.T) {
	tok := softhsm.NewToken(t)
	o := InitOptions{Dir: filepath.Join(t.TempDir(), "state"), Token: tok.URI(tok.PINFile)}
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() { errs <- Init(t.Context(), o) }()
	}
	won := 0
	for range cap(errs) {
		if err := <-errs; err == nil {
			won++
		}
	}
	require.Equal(t, 1, won)
	cfg, err := LoadConfig(o.Dir)
	require.NoError(t, err)
	mustCreate(t, openClient(t, cfg), types.KeySpecHmac256)
	require.NoFileExists(t, filepath.Join(o.Dir, claimFile))
}

func TestQuotasOfAStateDir(t *testing.T) {
	dir, _ := initDir(t)
	config := filepath.Join(dir, "config.yaml")
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	for given, want := range map[string]Quotas{
		"":                    {},
		"quotas:\n":           {},
		"quotas: {rates: on}": {},
		"quotas: {rates: off, keys: 7, aliases-per-key: 6, tags-per-key: 5, policy-bytes: 4}": {Keys: 7, AliasesPerKey: 6, TagsPerKey: 5, PolicyBytes: 4, NoRates: true},
	} {
		require.NoError(t, os.WriteFile(config, []byte(string(text)+given), 0o600))
		cfg, err := LoadConfig(dir)
		require.NoError(t, err, given)
		require.Equal(t, want, cfg.Quotas, given)
	}
}

// Each of these is one clear error that says what to do.
func TestLoadConfigRefusals(t *testing.T) {
	dir, _ := initDir(t)
	config := filepath.Join(dir, "config.yaml")
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	refused := func(say string) {
		t.Helper()
		_, err := LoadConfig(dir)
		require.ErrorContains(t, err, say)
		var hinted interface{ Hint() string }
		require.ErrorAs(t, err, &hinted)
		require.NotEmpty(t, hinted.Hint())
	}
	write := func(text string) { require.NoError(t, os.WriteFile(config, []byte(text), 0o600)) }

	write(string(text) + "colour: blue\n")
	refused("field colour not found")
	write(string(text) + "account: \"000000000000\"\n")
	refused("already defined")
	write(string(text) + "---\ncolour: blue\n")
	refused("more than one YAML document")
	write("account: [")
	refused("invalid")
	write("")
	refused("invalid")
	write(strings.Replace(string(text), "pkcs11:", "pkcs11:pin-value=0000;", 1))
	refused("pin-value")
	write(strings.Replace(string(text), testAccount, "1234", 1))
	refused("is not 12 digits")
	write(string(text) + "call-timeout: soon\n")
	refused("time.Duration")

	write(string(text) + "sessions: 3\ncall-timeout: 1500ms\n")
	cfg, err := LoadConfig(dir)
	require.NoError(t, err)
	require.Equal(t, 3, cfg.MaxSessions)

	for quota, say := range map[string]string{
		"keys: 0":              "quotas.keys is 0, not a positive number",
		"policy-bytes: -1":     "quotas.policy-bytes is -1, not a positive number",
		"aliases-per-key: 500": "the quota of 500 aliases per key is over",
		"tags-per-key: many":   "cannot unmarshal",
		"rates: true":          `quotas.rates is "true", neither on nor off`,
		"rate: off":            "field rate not found",
	} {
		write(string(text) + "quotas: {" + quota + "}\n")
		refused(say)
	}
	write(string(text))

	require.NoError(t, os.Chmod(config, 0o640))
	refused("is open to other users")
	require.NoError(t, os.Chmod(config, 0o600))
	require.NoError(t, os.Chmod(dir, 0o750))
	refused("is open to other users")
	require.NoError(t, os.Chmod(dir, 0o700))
	require.NoError(t, os.Remove(config))
	refused("has no config.yaml")
	require.NoError(t, os.RemoveAll(dir))
	refused("does not exist")
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	refused("is not a directory")
}

func TestStateDirOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	dir, _ := initDir(t)
	require.NoError(t, os.Chown(dir, 65534, -1))
	_, err := LoadConfig(dir)
	require.ErrorContains(t, err, "belongs to the user with the id 65534, this process runs as 0")
}

// The store remembers which token its keys live in.
func TestAnotherTokenInTheOnesPlace(t *testing.T) {
	cfg := newConfig(t)
	mustCreate(t, openClient(t, cfg), types.KeySpecHmac256)
	other := softhsm.NewToken(t)
	cfg.Regions = map[string]Region{testRegion: {Token: other.URI(other.PINFile)}}
	_, err := New(t.Context(), cfg)
	require.ErrorContains(t, err, "serial")
	var hinted interface{ Hint() string }
	require.ErrorAs(t, err, &hinted)
}

func TestConfigRefusals(t *testing.T) {
	good := Config{Regions: map[string]Region{testRegion: {Token: "pkcs11:"}}, StorePath: "x"}
	_, err := good.complete()
	require.NoError(t, err)
	for say, spoil := range map[string]func(*Config){
		"is not 12 digits":            func(c *Config) { c.AccountID = "1" },
		"partition":                   func(c *Config) { c.Partition = "azure" },
		"number of sessions":          func(c *Config) { c.MaxSessions = -1 },
		"too short":                   func(c *Config) { c.CallTimeout = 1 },
		"no region":                   func(c *Config) { c.Regions = nil },
		"no store":                    func(c *Config) { c.StorePath = "" },
		"has no token":                func(c *Config) { c.Regions = map[string]Region{testRegion: {}} },
		"is not among":                func(c *Config) { c.DefaultRegion = "eu-west-1" },
		"is not of the form":          func(c *Config) { c.Regions = map[string]Region{"here": {Token: "pkcs11:"}} },
		"both a store and the path":   func(c *Config) { c.Store = &faultyStore{} },
		"is not one of AWS's form":    func(c *Config) { c.Partition = "aws_" },
		"account id \"11112222333a\"": func(c *Config) { c.AccountID = "11112222333a" },
	} {
		cfg := good
		spoil(&cfg)
		_, err := cfg.complete()
		require.ErrorContains(t, err, say)
	}
}
