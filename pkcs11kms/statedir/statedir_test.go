package statedir

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
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

const (
	testAccount = "111122223333"
	testRegion  = "us-west-2"
)

func load(t *testing.T, dir string) Config {
	t.Helper()
	cfg, err := Load(dir)
	require.NoError(t, err)
	return cfg
}

// openClient opens a client that is closed at the end of the test, if not before.
func openClient(t *testing.T, cfg Config) *pkcs11kms.Client {
	t.Helper()
	c, err := New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) }) // closing twice does nothing
	return c
}

func mustCreate(t *testing.T, c *pkcs11kms.Client, spec types.KeySpec) *types.KeyMetadata {
	t.Helper()
	out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	require.NoError(t, err)
	return out.KeyMetadata
}

func TestInitAndLoad(t *testing.T) {
	dir, tok := initDir(t)
	for name, mode := range map[string]os.FileMode{".": os.ModeDir | 0o700, "config.yaml": 0o600, "kms.db": 0o600,
		"locks": os.ModeDir | 0o700} {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), name)
	}
	cfg := load(t, dir)
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
	for name, tc := range map[string]struct {
		o      InitOptions
		reason string
	}{
		"no such token":  {InitOptions{Token: strings.Replace(good, "token=", "token=x", 1)}, "no token matches"},
		"malformed URI":  {InitOptions{Token: "pkcs11:nonsense"}, "not of the form name=value"},
		"malformed id":   {InitOptions{Token: good, AccountID: "12"}, `account id "12" is not 12 digits`},
		"odd region":     {InitOptions{Token: good, Region: "Mars"}, `region name "Mars" is not of the form`},
		"neither token":  {InitOptions{}, "exactly one of"},
		"both tokens":    {InitOptions{Token: good, SoftHSM: true}, "exactly one of"},
		"slot by number": {InitOptions{Token: strings.Replace(good, "pkcs11:", "pkcs11:slot-id=0;", 1)}, `attribute "slot-id" is refused`},
	} {
		o := tc.o
		o.Dir = filepath.Join(parent, "state")
		require.ErrorContains(t, Init(t.Context(), o), tc.reason, name)
		require.NoDirExists(t, o.Dir, name)
		require.NoError(t, os.Mkdir(o.Dir, 0o700))
		require.ErrorContains(t, Init(t.Context(), o), tc.reason, name)
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
	cfg, err := Load(o.Dir)
	require.NoError(t, err)
	mustCreate(t, openClient(t, cfg), types.KeySpecHmac256)
	require.NoFileExists(t, filepath.Join(o.Dir, claimFile))
}

func TestQuotasOfAStateDir(t *testing.T) {
	dir, _ := initDir(t)
	config := filepath.Join(dir, "config.yaml")
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	for given, want := range map[string]pkcs11kms.Quotas{
		"":                    {},
		"quotas:\n":           {},
		"quotas: {rates: on}": {},
		"quotas: {rates: off, keys: 7, aliases-per-key: 6, tags-per-key: 5, policy-bytes: 4, grants-per-key: 3}": {
			Keys: 7, AliasesPerKey: 6, TagsPerKey: 5, PolicyBytes: 4, GrantsPerKey: 3, NoRates: true},
	} {
		require.NoError(t, os.WriteFile(config, []byte(string(text)+given), 0o600))
		cfg, err := Load(dir)
		require.NoError(t, err, given)
		require.Equal(t, want, cfg.Quotas, given)
	}
}

// Each of these is one clear error that says what to do.
func TestLoadRefusals(t *testing.T) {
	dir, _ := initDir(t)
	config := filepath.Join(dir, "config.yaml")
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	refused := func(say string) {
		t.Helper()
		_, err := Load(dir)
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
	cfg, err := Load(dir)
	require.NoError(t, err)
	require.Equal(t, 3, cfg.MaxSessions)

	require.False(t, cfg.NoRoleAccessKeys)
	write(string(text) + "role-access-keys: off\n")
	cfg, err = Load(dir)
	require.NoError(t, err)
	require.True(t, cfg.NoRoleAccessKeys)
	write(string(text) + "role-access-keys: auto\n")
	refused(`role-access-keys: "auto" is neither on nor off`)

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
	for audit, say := range map[string]string{
		"file: maybe":      `audit.file is "maybe", neither on nor off`,
		"fsync: never":     `audit.fsync is "never", not one of group, always, off`,
		"rotate-bytes: 10": "audit.rotate-bytes is 10, less than 1048576",
		"rotate-age: 1s":   "audit.rotate-age is 1s, less than a minute",
		"keep: 3":          "field keep not found",
	} {
		write(string(text) + "audit: {" + audit + "}\n")
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
	_, err := Load(dir)
	require.ErrorContains(t, err, "belongs to the user with the id 65534, this process runs as 0")
}

// TestFailedInitTakesEverythingBack: whatever step fails, the directory is as it was before, and the same Init succeeds when the
// reason is gone.
func TestFailedInitTakesEverythingBack(t *testing.T) {
	tok := softhsm.NewToken(t)
	wrong := filepath.Join(t.TempDir(), "pin")
	require.NoError(t, os.WriteFile(wrong, []byte("not the PIN"), 0o600))
	ended, end := context.WithCancel(t.Context())
	end()
	for name, c := range map[string]struct {
		ctx  context.Context
		file string
		text string
	}{
		"the PIN is wrong": {t.Context(), wrong, "has refused the PIN"},
		"no PIN file":      {t.Context(), wrong + ".none", "does not exist"},
		"called off":       {ended, tok.PINFile, "context canceled"},
	} {
		for _, existed := range []bool{false, true} {
			dir := filepath.Join(t.TempDir(), "state")
			if existed {
				require.NoError(t, os.Mkdir(dir, 0o700))
			}
			err := Init(c.ctx, InitOptions{Dir: dir, Token: tok.URI(c.file), TryLowPIN: true})
			require.ErrorContains(t, err, c.text, name)
			if existed {
				entries, err := os.ReadDir(dir)
				require.NoError(t, err)
				require.Empty(t, entries, name)
			} else {
				require.NoDirExists(t, dir, name)
			}
			require.NoError(t, Init(t.Context(), InitOptions{Dir: dir, Token: tok.URI(tok.PINFile), TryLowPIN: true}), name)
		}
	}
}

// TestHintOfAWrongPINAtTheFirstInit: doctor wants the state directory that is not there yet.
func TestHintOfAWrongPINAtTheFirstInit(t *testing.T) {
	tok := softhsm.NewToken(t)
	wrong := filepath.Join(t.TempDir(), "pin")
	require.NoError(t, os.WriteFile(wrong, []byte("not the PIN"), 0o600))
	o := InitOptions{Dir: filepath.Join(t.TempDir(), "state"), Token: tok.URI(wrong)}
	for _, file := range []string{wrong, tok.PINFile} { // refused, then not tried
		o.Token = tok.URI(file)
		var hinted interface{ Hint() string }
		require.ErrorAs(t, Init(t.Context(), o), &hinted)
		require.Contains(t, hinted.Hint(), "pkcs11kms init --try-pin")
		require.NotContains(t, hinted.Hint(), "doctor")
	}
	o.TryLowPIN = true
	require.NoError(t, Init(t.Context(), o))
}

// TestInitTakesOverOnlyWhatAnInitHasLeft: whoever has the claim's lock lives, and what an Init does not make, or what was used, stays.
func TestInitTakesOverOnlyWhatAnInitHasLeft(t *testing.T) {
	tok := softhsm.NewToken(t)
	leave := func(names ...string) string {
		dir := t.TempDir()
		require.NoError(t, os.Chmod(dir, 0o700))
		for _, name := range names {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		}
		return dir
	}
	try := func(dir string) error { return Init(t.Context(), InitOptions{Dir: dir, Token: tok.URI(tok.PINFile)}) }

	dead := leave(".init", "pin", "softhsm2.conf", "softhsm2.conf.tmp-1", "tokens/a/token.object", "tokens.saved/a", "locks/x.lock",
		".kms.db.new-12", ".kms.db.new-12-wal", "config.yaml.new")
	require.NoError(t, try(dead))
	entries, err := os.ReadDir(dead)
	require.NoError(t, err)
	names := []string{}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	require.ElementsMatch(t, []string{"audit", "config.yaml", "kms.db", "locks"}, names)

	recorded := leave(".init") // and its log: killed before the last step
	require.NoError(t, os.CopyFS(AuditDir(recorded), os.DirFS(AuditDir(dead))))
	require.NoError(t, os.Chmod(AuditDir(recorded), 0o700))
	require.NoError(t, try(recorded))
	used := leave(".init")
	require.NoError(t, os.CopyFS(AuditDir(used), os.DirFS(AuditDir(dead))))
	require.NoError(t, os.Chmod(AuditDir(used), 0o700))
	log, err := audit.Open(AuditDir(used), audit.Options{})
	require.NoError(t, err)
	require.NoError(t, log.Record(t.Context(), audit.Event{Service: "kms", Operation: "ListKeys"}))
	require.NoError(t, log.Close())

	for name, c := range map[string]struct{ dir, text string }{
		"a log":               {used, "was used"},
		"no claim":            {leave("kms.db", "pin"), "is not empty"},
		"another's file":      {leave(".init", "pin", "notes.txt"), `it holds "notes.txt"`},
		"an object":           {leave(".init", "tokens/a/token.object", "tokens/a/1234.object"), "was used"},
		"an unreadable store": {leave(".init", "kms.db"), "was used"},
	} {
		before := listing(t, c.dir)
		require.ErrorContains(t, try(c.dir), c.text, name)
		require.Equal(t, before, listing(t, c.dir), name)
	}

	used, _ = initDir(t)
	cfg, err := Load(used)
	require.NoError(t, err)
	client := openClient(t, cfg)
	mustCreate(t, client, types.KeySpecHmac256)
	require.NoError(t, client.Close())
	require.NoError(t, os.Rename(filepath.Join(used, "config.yaml"), filepath.Join(used, ".init")))
	require.ErrorContains(t, try(used), "was used")
	require.FileExists(t, filepath.Join(used, "kms.db"))

	alive := leave(".init", "pin")
	f, err := os.Open(filepath.Join(alive, ".init"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	require.ErrorContains(t, try(alive), "another init works in")
	require.FileExists(t, filepath.Join(alive, "pin"))
}

// listing is every path below a directory.
func listing(t *testing.T, dir string) (paths []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	}))
	return paths
}

// TestVolumeOfAContainer: fsGroup opens the root of a volume to its group, and a secret's file belongs to root and the group. A
// directory below the root works, with such a PIN file; the root itself is refused.
func TestVolumeOfAContainer(t *testing.T) {
	volume := t.TempDir()
	require.NoError(t, os.Chmod(volume, os.ModeSetgid|0o770))
	tok := softhsm.NewToken(t)
	secret := filepath.Join(volume, "pin")
	require.NoError(t, os.WriteFile(secret, []byte(tok.PIN()), 0o600))
	for _, mode := range []os.FileMode{0o660, 0o444, 0o604} {
		require.NoError(t, os.Chmod(secret, mode))
		o := InitOptions{Dir: filepath.Join(volume, "other"), Token: tok.URI(secret)}
		require.ErrorContains(t, Init(t.Context(), o), "PIN file", "%v", mode)
	}
	for _, mode := range []os.FileMode{0o440, 0o640, 0o400, 0o600} {
		require.NoError(t, os.Chmod(secret, mode))
		dir := filepath.Join(volume, "kms", mode.String())
		require.NoError(t, Init(t.Context(), InitOptions{Dir: dir, Token: tok.URI(secret)}), "%v", mode)
		cfg, err := Load(dir)
		require.NoError(t, err)
		mustCreate(t, openClient(t, cfg), types.KeySpecHmac256)
	}
	_, err := Load(volume)
	var setup *pkcs11kms.SetupError
	require.ErrorAs(t, err, &setup)
	require.ErrorContains(t, err, "fsGroup")
	require.Contains(t, setup.Hint(), "OnRootMismatch")
}
