package statedir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

func recorded(t *testing.T, dir string) (lines []string) {
	t.Helper()
	require.NoError(t, audit.Scan(AuditDir(dir), func(line []byte) error {
		lines = append(lines, string(line))
		return nil
	}))
	require.Contains(t, lines[0], `"eventSource":"pkcs11kms","eventName":"InitStateDirectory"`)
	return lines[1:]
}

// A state directory has an audit log, which goes with the Bridge: what comes after it goes on with the same chain.
func TestTheAuditLogGoesWithTheBridge(t *testing.T) {
	dir, _ := initDir(t)
	for i := range 3 {
		c := openClient(t, load(t, dir))
		_, err := c.ListKeys(t.Context(), &kms.ListKeysInput{})
		require.NoError(t, err)
		require.NoError(t, c.Close())
		lines := recorded(t, dir)
		require.Len(t, lines, 3*(i+1))
		require.Contains(t, lines[3*i], `"eventName":"ListKeys"`)
		require.Contains(t, lines[3*i], fmt.Sprintf(`"seq":%d,`, 3*i+2))
		require.Contains(t, lines[3*i+1], `"eventName":"CheckpointStore"`)
		require.Contains(t, lines[3*i+2], `"eventType":"Pkcs11KmsSeal"`)
	}
	seals, err := load(t, dir).AuditSeals(t.Context())
	require.NoError(t, err)
	check, closeAll, err := load(t, dir).AuditMACs(t.Context())
	require.NoError(t, err)
	v, err := audit.VerifyDir(AuditDir(dir), audit.Known{Check: check, Sealed: seals.Sealed, MustBeSealed: true})
	require.NoError(t, err)
	require.NoError(t, closeAll())
	require.Empty(t, v.Problems)
	require.Empty(t, v.Unsealed)
	require.Equal(t, 3, v.Seals)
	require.Len(t, v.Heads, 1)
	require.Len(t, recorded(t, dir), 9, "verification by the token is not recorded")

	missing := load(t, dir)
	missing.Regions[testRegion] = pkcs11kms.Region{Token: "pkcs11:token=none?module-path=/nonexistent.so"}
	for range 3 {
		_, err = Open(t.Context(), missing)
		require.ErrorContains(t, err, "nonexistent")
	}
	c := openClient(t, load(t, dir))
	_, err = c.ListKeys(t.Context(), &kms.ListKeysInput{})
	require.NoError(t, err)
	heads, err := audit.Heads(AuditDir(dir))
	require.NoError(t, err)
	require.Len(t, heads, 1, "a Bridge that could not be opened has let the chain go")
}

// What config.yaml says of the audit log is done.
func TestAuditSettings(t *testing.T) {
	dir, _ := initDir(t)
	config := filepath.Join(dir, configFile)
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	with := func(audit string) Config {
		require.NoError(t, os.WriteFile(config, []byte(string(text)+"audit: {"+audit+"}\n"), 0o600))
		return load(t, dir)
	}
	cfg := with("file: off")
	require.Equal(t, audit.Discard, cfg.Audit)
	c := openClient(t, cfg)
	_, err = c.ListKeys(t.Context(), &kms.ListKeysInput{})
	require.NoError(t, err)
	require.Empty(t, recorded(t, dir))
	cfg = with("file: on, fsync: always, rotate-bytes: 2097152, rotate-age: 1h")
	require.Equal(t, audit.Options{Fsync: "always", RotateBytes: 2 << 20, RotateAge: 3600e9}, cfg.AuditOptions)
	require.Equal(t, filepath.Join(dir, "audit"), cfg.AuditDir)
	require.False(t, cfg.AuditStdout)

	cfg = with("keep-days: 400, keep-bytes: 1048576")
	require.Equal(t, audit.Options{KeepAge: 400 * 24 * time.Hour, KeepBytes: 1 << 20}, cfg.AuditOptions)

	cfg = with("stdout: true, syslog: {address: 'logs.example:6514'}")
	require.True(t, cfg.AuditStdout)
	require.Equal(t, &audit.SyslogOptions{Address: "logs.example:6514", Facility: 13}, cfg.AuditOptions.Syslog)
	cfg = with("syslog: {address: '[::1]:6514', ca: ca.crt, cert: tls/c.crt, key: /etc/c.key, server-name: logs.example, facility: 10}")
	require.Equal(t, &audit.SyslogOptions{Address: "[::1]:6514", CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "tls/c.crt"),
		Key: "/etc/c.key", ServerName: "logs.example", Facility: 10}, cfg.AuditOptions.Syslog)
	_, err = Open(t.Context(), cfg)
	require.ErrorContains(t, err, "ca.crt")
	var hinted interface{ Hint() string }
	require.ErrorAs(t, err, &hinted)
	require.Contains(t, hinted.Hint(), "audit.syslog in config.yaml")
	for section, want := range map[string]string{
		"syslog: {address: logs.example}":                      "not HOST:PORT",
		"syslog: {address: 'logs.example:syslog-tls'}":         "not HOST:PORT",
		"syslog: {address: ':6514'}":                           "not HOST:PORT",
		"syslog: {address: 'tcp://127.0.0.1:514'}":             "not HOST:PORT",
		"syslog: {address: 'logs.example:6514', tls: off}":     "field tls not found",
		"syslog: {address: 'logs.example:6514', network: udp}": "field network not found",
		"syslog: {address: 'logs.example:6514', cert: c.crt}":  "only one of cert and key",
		"syslog: {address: 'logs.example:6514', facility: 0}":  "not one of 1 to 23",
		"syslog: {address: 'logs.example:6514', facility: 24}": "not one of 1 to 23",
		"file: off, syslog: {address: 'logs.example:6514'}":    "audit.file is off",
		"keep-days: 0":            "audit.keep-days is 0",
		"keep-days: 36501":        "audit.keep-days is 36501",
		"keep-bytes: 1048575":     "audit.keep-bytes is 1048575",
		"file: off, stdout: true": "audit.file is off",
	} {
		require.NoError(t, os.WriteFile(config, []byte(string(text)+"audit: {"+section+"}\n"), 0o600))
		_, err := Load(dir)
		require.ErrorContains(t, err, want, section)
	}
}

// A Bridge that is opened past Open has no audit log, and refuses.
func TestABridgePastOpenRefuses(t *testing.T) {
	dir, _ := initDir(t)
	cfg := load(t, dir)
	store, err := cfg.OpenStore(t.Context())
	require.NoError(t, err)
	cfg.Store = store
	cfg.CloseStore = true
	c, err := pkcs11kms.New(t.Context(), cfg.Config)
	require.NoError(t, err)
	_, err = c.ListKeys(t.Context(), &kms.ListKeysInput{})
	require.ErrorContains(t, err, "KMSInternalException")
	require.NoError(t, c.Close())
}

// A log that cannot be opened keeps the Bridge from being opened, and the store is let go.
func TestAnAuditLogThatCannotBeOpened(t *testing.T) {
	dir, _ := initDir(t)
	require.NoError(t, os.Chmod(AuditDir(dir), 0o755))
	_, err := Open(t.Context(), load(t, dir))
	require.ErrorContains(t, err, "is open to other users")
	var hinted interface{ Hint() string }
	require.ErrorAs(t, err, &hinted)
	require.True(t, strings.Contains(hinted.Hint(), "mode 0700"))
	locks, err := os.ReadDir(filepath.Join(dir, "locks"))
	require.NoError(t, err)
	require.Empty(t, locks)
}

// The making of a state directory is the first record of its log, and a backup has an intent and an end.
func TestInitAndBackupAreRecorded(t *testing.T) {
	dir, _ := initDir(t)
	var first string
	require.NoError(t, audit.Scan(AuditDir(dir), func(line []byte) error {
		first += string(line)
		return nil
	}))
	require.Contains(t, first, `"requestParameters":{"region":"`+testRegion+`","softHsm":false}`)
	require.Contains(t, first, `"eventType":"AwsApiCall"`)
	require.Contains(t, first, `"arn":"arn:aws:iam::`+testAccount+`:root"`)
	require.Equal(t, 1, strings.Count(first, `"eventVersion"`))

	b, err := Open(t.Context(), load(t, dir))
	require.NoError(t, err)
	backup := filepath.Join(t.TempDir(), "backup")
	require.NoError(t, Backup(t.Context(), b, backup))
	require.Error(t, Backup(t.Context(), b, backup), "there is one already")
	require.NoError(t, b.Close())
	var lines []string
	for _, line := range recorded(t, dir) {
		if strings.Contains(line, `"eventSource":"pkcs11kms","eventName":"BackupStore"`) {
			lines = append(lines, line)
		}
	}
	require.Len(t, lines, 4)
	for i, kind := range []string{"Pkcs11KmsIntent", "AwsApiCall", "Pkcs11KmsIntent", "AwsApiCall"} {
		require.Contains(t, lines[i], `"eventType":"`+kind+`"`)
		require.Contains(t, lines[i], `"requestParameters":{"file":"`+backup+`"}`)
		require.Equal(t, i == 3, strings.Contains(lines[i], `"errorCode":"InternalFailure"`))
	}
}

// Putting a backup in place is recorded, and is not done where it cannot be.
func TestARestoreIsRecorded(t *testing.T) {
	dir, _ := initDir(t)
	b, err := Open(t.Context(), load(t, dir))
	require.NoError(t, err)
	backup := filepath.Join(t.TempDir(), "backup")
	require.NoError(t, Backup(t.Context(), b, backup))
	require.NoError(t, b.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, storeFile)))
	require.NoError(t, os.Chmod(AuditDir(dir), 0o755))
	_, err = Restore(t.Context(), dir, backup)
	require.ErrorContains(t, err, "the audit log cannot be opened")
	require.NoFileExists(t, filepath.Join(dir, storeFile))
	require.NoError(t, os.Chmod(AuditDir(dir), 0o700))
	before := len(recorded(t, dir))
	_, err = Restore(t.Context(), dir, backup)
	require.NoError(t, err)
	_, err = Restore(t.Context(), dir, backup)
	require.Error(t, err, "there is a store now")
	lines := recorded(t, dir)[before:]
	require.Len(t, lines, 4)
	for i, kind := range []string{"Pkcs11KmsIntent", "AwsApiCall", "Pkcs11KmsIntent", "AwsApiCall"} {
		require.Contains(t, lines[i], `"eventSource":"pkcs11kms","eventName":"RestoreStore"`)
		require.Contains(t, lines[i], `"eventType":"`+kind+`"`)
		require.Contains(t, lines[i], `"requestParameters":{"file":"`+backup+`"}`)
		require.Contains(t, lines[i], `"arn":"arn:aws:iam::`+testAccount+`:root"`)
		require.Equal(t, i == 3, strings.Contains(lines[i], `"errorCode":"InternalFailure"`))
	}
	open, err := audit.OpenIntents(AuditDir(dir), time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Empty(t, open)
}

// A store that is restored without the audit log of before does not miss that log's chains; with it, what was sealed is known.
func TestRestoreWithoutTheLogOfBefore(t *testing.T) {
	dir, _ := initDir(t)
	c := openClient(t, load(t, dir))
	_, err := c.ListKeys(t.Context(), &kms.ListKeysInput{})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	b, err := Open(t.Context(), load(t, dir))
	require.NoError(t, err)
	backup := filepath.Join(t.TempDir(), "backup")
	require.NoError(t, Backup(t.Context(), b, backup))
	require.NoError(t, b.Close())
	seals := func() AuditSeals {
		s, err := load(t, dir).AuditSeals(t.Context())
		require.NoError(t, err)
		require.True(t, s.Key)
		require.Contains(t, s.PublicKey(), "BEGIN PUBLIC KEY")
		return s
	}
	require.Len(t, seals().Sealed, 1)
	restore := func() []string {
		require.NoError(t, os.Remove(filepath.Join(dir, storeFile)))
		done, err := Restore(t.Context(), dir, backup)
		require.NoError(t, err)
		return done
	}
	require.Len(t, restore(), 1, "that all is sealed anew")
	require.Len(t, seals().Sealed, 1)
	require.NoError(t, os.RemoveAll(AuditDir(dir)))
	done := restore()
	require.Len(t, done, 2)
	require.Contains(t, strings.Join(done, "\n"), "left out that the chain ")
	require.Empty(t, seals().Sealed)
}
