package test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
)

// stateDir is a state directory on the token of a test, made and used by the built binary.
type stateDir struct {
	binary string
	path   string
	token  softhsm.TestToken
}

// newStateDir makes a token and a state directory on it.
func newStateDir(t *testing.T) *stateDir {
	t.Helper()
	return newStateDirOn(t, softhsm.NewToken(t))
}

// newStateDirOn makes a state directory on a token that is there.
func newStateDirOn(t *testing.T, tok softhsm.TestToken) *stateDir {
	t.Helper()
	d := &stateDir{binary: executable(t, realBinary), path: filepath.Join(t.TempDir(), "state"), token: tok}
	d.must(t, nil, "init", "--token", tok.URI(tok.PINFile))
	d.must(t, nil, "list-keys") // which makes its binding key: what is made and dies later is the test's
	return d
}

// newUnsealed makes one whose records have no seals, so that a test can write some that no process has written.
func newUnsealed(t *testing.T) *stateDir {
	t.Helper()
	tok := softhsm.NewToken(t)
	d := &stateDir{binary: executable(t, realBinary), path: filepath.Join(t.TempDir(), "state"), token: tok}
	d.must(t, nil, "init", "--token", tok.URI(tok.PINFile))
	config := filepath.Join(d.path, "config.yaml")
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(config, append(text, "seal-records: off\n"...), 0o600))
	d.must(t, nil, "list-keys")
	return d
}

// command prepares the binary with a verb.
func (d *stateDir) command(args ...string) *exec.Cmd {
	cmd := exec.Command(d.binary, args...)
	cmd.Env = append(append(os.Environ(), d.token.Env()...), "PKCS11KMS_STATE_DIR="+d.path)
	return cmd
}

// must runs a verb that succeeds, and reads its answer unless that is nil.
func (d *stateDir) must(t *testing.T, answer any, args ...string) {
	t.Helper()
	require.NoError(t, answered(d.command(args...), answer))
}

// config is for the library in a process that has SOFTHSM2_CONF set.
func (d *stateDir) config(t *testing.T) statedir.Config {
	t.Helper()
	cfg, err := statedir.Load(d.path)
	require.NoError(t, err)
	cfg.Quotas.NoRates = true // tests ask more often than an account may
	return cfg
}

// client opens the library on the state directory in this process until the test ends.
func (d *stateDir) client(t *testing.T) *pkcs11kms.Client {
	t.Helper()
	c, err := statedir.New(t.Context(), d.config(t))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

// The answers of the binary, as far as the tests read them. They have the form of the aws CLI's.
type (
	createdAnswer struct {
		KeyMetadata struct{ KeyId, KeySpec, KeyState string }
	}
	listAnswer   struct{ Keys []struct{ KeyId string } }
	macAnswer    struct{ Mac, KeyId, MacAlgorithm string }
	verifyAnswer struct {
		MacValid     bool
		MacAlgorithm string
	}
)

var createArgs = []string{"create-key", "--key-spec", "HMAC_256", "--key-usage", "GENERATE_VERIFY_MAC"}

func macArgs(verb, keyID string, message []byte, more ...string) []string {
	args := []string{verb, "--key-id", keyID, "--mac-algorithm", "HMAC_SHA_256", "--message", base64.StdEncoding.EncodeToString(message)}
	return append(args, more...)
}

// createKey makes a key with the binary and returns its id.
func (d *stateDir) createKey(t *testing.T) string {
	t.Helper()
	var made createdAnswer
	d.must(t, &made, createArgs...)
	require.Equal(t, "Enabled", made.KeyMetadata.KeyState)
	return made.KeyMetadata.KeyId
}

// listKeys returns the ids of all keys that the binary lists.
func (d *stateDir) listKeys(t *testing.T) []string {
	t.Helper()
	var list listAnswer
	d.must(t, &list, "list-keys")
	ids := []string{}
	for _, k := range list.Keys {
		ids = append(ids, k.KeyId)
	}
	return ids
}

// generateMAC makes a MAC with the binary.
func (d *stateDir) generateMAC(t *testing.T, keyID string, message []byte) string {
	t.Helper()
	var made macAnswer
	d.must(t, &made, macArgs("generate-mac", keyID, message)...)
	return made.Mac
}

// verifyMAC verifies a MAC with the binary.
func (d *stateDir) verifyMAC(t *testing.T, keyID string, message []byte, mac string) {
	t.Helper()
	var verified verifyAnswer
	d.must(t, &verified, macArgs("verify-mac", keyID, message, "--mac", mac)...)
	require.True(t, verified.MacValid)
}

// decodeMAC reads a MAC as the binary prints it.
func decodeMAC(t *testing.T, text string) []byte {
	t.Helper()
	mac, err := base64.StdEncoding.DecodeString(text)
	require.NoError(t, err)
	return mac
}

// doctor runs the examination, which must find nothing wrong.
func (d *stateDir) doctor(t *testing.T) doctor.RegionReport {
	t.Helper()
	var report doctor.Report
	d.must(t, &report, "doctor", "--json")
	return d.examined(t, report, "")
}

// putBack runs doctor on a store that was put back behind the program's back, which it tells.
func (d *stateDir) putBack(t *testing.T) doctor.RegionReport {
	t.Helper()
	var report doctor.Report
	r, err := run(d.command("doctor", "--json"))
	require.NoError(t, err)
	require.Equal(t, 3, r.code)
	require.NoError(t, json.Unmarshal(r.stdout, &report))
	return d.examined(t, report, "by its audit log, the record ")
}

// examined holds that doctor has found nothing, or what begins with told.
func (d *stateDir) examined(t *testing.T, report doctor.Report, told string) doctor.RegionReport {
	t.Helper()
	for _, check := range report.Checks {
		if told == "" || !strings.HasPrefix(check.Text, told) {
			assert.Equal(t, doctor.StatusOK, check.Status, "%s %s: %s", check.Area, check.Subject, check.Text)
		}
	}
	require.Len(t, report.Regions, 1)
	region := report.Regions[0]
	region.Keys = slices.DeleteFunc(region.Keys, func(k doctor.KeyReport) bool { return slices.Contains(sealLabels, k.KeyID) })
	region.Unknown = slices.DeleteFunc(region.Unknown, func(o doctor.ObjectReport) bool { return slices.Contains(sealLabels, o.Label) })
	return region
}

// records reads the key records of the account as they stand in the store, half-made ones too. It starts no janitor.
func (d *stateDir) records(t *testing.T) []keystore.Key {
	t.Helper()
	cfg := d.config(t)
	store, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, store.Close()) }()
	recs, err := store.List(t.Context(), keystore.KindKey, cfg.DefaultRegion, cfg.AccountID, "", keystore.MaxPage)
	require.NoError(t, err)
	return decoded(t, recs)
}

// boundTo is what the store says of the token.
func (d *stateDir) boundTo(t *testing.T) keystore.Region {
	t.Helper()
	cfg := d.config(t)
	store, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, store.Close()) }()
	rec, err := store.Get(t.Context(), keystore.RegionRef(cfg.DefaultRegion))
	require.NoError(t, err)
	rec.Seal = nil
	bound, err := keystore.DecodeRegion(rec)
	require.NoError(t, err)
	return bound
}

// allRecords are the records of all accounts' keys, and the service keys, which are of none, but for those that make seals.
func (d *stateDir) allRecords(t *testing.T) []keystore.Key {
	t.Helper()
	store, err := sqlite.Open(t.Context(), d.config(t).StorePath, sqlite.Options{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, store.Close()) }()
	recs, err := store.Lookup(t.Context(), keystore.IndexCKAID, "", keystore.Ref{}, keystore.MaxPage)
	require.NoError(t, err)
	return slices.DeleteFunc(decoded(t, recs), func(k keystore.Key) bool { return slices.Contains(sealLabels, k.ID) && !k.State.Unfinished() })
}

func decoded(t *testing.T, recs []keystore.Record) []keystore.Key {
	t.Helper()
	keys := []keystore.Key{}
	for _, rec := range recs {
		rec.Seal = nil // as doctor says, they are right
		k, err := keystore.DecodeKey(rec)
		require.NoError(t, err)
		keys = append(keys, k)
	}
	return keys
}

// ckaID returns the CKA_ID of a key's object, hexadecimal.
func (d *stateDir) ckaID(t *testing.T, keyID string) string {
	t.Helper()
	for _, record := range d.records(t) {
		if record.ID == keyID {
			return record.CKAID.String()
		}
	}
	require.Fail(t, "no record", keyID)
	return ""
}

// unfinished returns the records that are half made.
func unfinished(keys []keystore.Key) []keystore.Key {
	var found []keystore.Key
	for _, k := range keys {
		if k.State.Unfinished() {
			found = append(found, k)
		}
	}
	return found
}

// ids returns the key ids of records.
func ids(keys []keystore.Key) []string {
	found := []string{}
	for _, k := range keys {
		found = append(found, k.ID)
	}
	return found
}

func createInput(spec types.KeySpec) *kms.CreateKeyInput {
	return &kms.CreateKeyInput{KeySpec: spec, KeyUsage: types.KeyUsageTypeGenerateVerifyMac}
}

func macInput(keyID string, algorithm types.MacAlgorithmSpec, message []byte) *kms.GenerateMacInput {
	return &kms.GenerateMacInput{KeyId: aws.String(keyID), MacAlgorithm: algorithm, Message: message}
}

func verifyInput(keyID string, algorithm types.MacAlgorithmSpec, message, mac []byte) *kms.VerifyMacInput {
	return &kms.VerifyMacInput{KeyId: aws.String(keyID), MacAlgorithm: algorithm, Message: message, Mac: mac}
}
