package test

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/softhsm"
)

// The state directory of each version of the store's format stands in testdata, as the last program of that version left it: with keys
// in a SoftHSM token, an alias, tags, policies, a user with an access key, a role, and a key that was half made. The keys and the PIN
// are of no use to anybody.

// oldState is what the program of a version has made.
type oldState struct {
	version         int
	bound           bool // its token has a binding key
	sealed          bool // its records have seals
	macKey, signKey string
	pending, half   string
	mac, signature  string // of oldMessage
	accessKey       string
}

const oldMessage = "dGhlIG1lc3NhZ2U=" // "the message"

var oldStates = []oldState{
	{version: 2, macKey: "2fe358a7-3448-4218-92a9-f61635a15f13", signKey: "f625a9c4-195b-4c16-9ae0-59239089443f",
		pending: "60393de5-143c-4058-83e5-3fefb4669fa7", half: "3c37a0ef-bb44-420b-b3cd-8b2b3399b078",
		mac: "QsK9ONXj0XwhszfMUb0VFHyfzkCJ9iC+gTGOzV6QnUE=", accessKey: "AKIANRHIZHM7L66HIA42",
		signature: "MEYCIQCpsJhhqyusfg9bBervcE2nQH1AoKyqcNi29PPP/P3A+QIhAJdTlzPkzpY6hsbpX4AStXjndm7QG4iS/f7mE185bes1"},
	{version: 3, macKey: "74c072e5-a29f-442c-ba09-3dd16ac56377", signKey: "a1c06c91-30f5-435c-abe1-c81cc6e4b4c4",
		pending: "5eda6e65-730c-43a0-81f6-3425e07efd90", half: "0a212bad-62b0-4d48-a1cf-cd8ff85f09f3",
		mac: "9syPalqs0mb21tB9tB9CsWATntwKKCk/HBxDK9Y3pnU=", accessKey: "AKIACZ6UVQ4AK2BNQZY7",
		signature: "MEYCIQDMqg+VEfj83IRF3BfXiRY50OkHCz0W7kzdvzZJIfb82wIhAIIutxGTVXTidJqrk4YuNqje31vlpeJ2wlafMBECznjh"},
	{version: 4, bound: true, macKey: "30b0e40a-6679-4984-86a5-9f730348fc08", signKey: "f3707a33-b508-4407-bf1a-590824736256",
		pending: "0cd780a1-d1f8-4d5b-9633-70a8d9822e6e", half: "bf1481d9-bc0b-4862-9ab0-4aebc7604091",
		mac: "OJHfsa57DcNmT3fSKxjugktano0wPHAAILV4tiHTM+k=", accessKey: "AKIAFP3PKB4HYZGLGBBV",
		signature: "MEQCID1bFl1Wgc8lB3SiEY0U7NxAIZZL2kvHph+zjO94c9gzAiA22g/EqXAFnvv9323/xr0tmGca6q/AEOTZIRxq3pkx1w=="},
	{version: 5, bound: true, macKey: "a4cb59e8-e511-4ee9-9496-0611bf5a2908", signKey: "ee306cc5-a049-4ce6-9d3a-2e7a94a7a13e",
		pending: "781557cd-206c-4028-b455-06cb6ab00f54", half: "bf1e5d99-9aec-4f9a-847f-9a33628641cd",
		mac: "cFfP8i5ikIafmCEy4sBGFfwBPid7MFooYiQsEIZiBKM=", accessKey: "AKIAA4BBP6R5PEJ25YN4",
		signature: "MEQCIFTvGs7ic2SOuh39/LGwjJ+IdBqCAqNuPuZe3u4pUMsfAiAvPL2+VU/BpVQrHGVGTFRO77V8LfF2k6m5IXiulMpJvg=="},
	{version: 6, bound: true, macKey: "69f0677f-19a7-486e-83a2-e2f80948a5d2", signKey: "84981e56-0d13-46d3-90f6-d71a40bf59d6",
		pending: "9e370ded-598f-4bec-a1e1-95db7bdc4a4e", half: "ed8e3784-5526-4be3-ab37-dab7d70d07ca",
		mac: "jFQCqkdo5KRS8SrOmvKCys0jpkKNJBmQksrBSofYE3k=", accessKey: "AKIAFTEP2VJ6MSIPN6OY",
		signature: "MEQCIGP82o/XHHPABebJWZD8lEl11mtE7z90snCEY3GAfptHAiBofG3juQVY3FmK6Fs7CaPeYpb9rDTZFezJ4pGu15AU2A=="},
	{version: 7, bound: true, sealed: true, macKey: "4cba2c61-9f95-4a1c-b02c-98c21f9484d0", signKey: "4d676128-b53f-47f2-a3aa-a9f05b9f1c7b",
		pending: "98ea1ca0-f07d-4d73-9093-754155314ce5", half: "92970517-c8fe-4025-8179-05a8d5a9c23f",
		mac: "lQKUECb1VxaQQKpxhPz3vSD9N0N4Qnk1PYcs5nmEJ+U=", accessKey: "AKIA6TGFOHIO6CKTHRQR",
		signature: "MEUCIEVw87+HlSvdEML+RbExiTQhSM0MhS3og3vRe/w/60SVAiEAxnHoIbDiUNusdG9IudDiph90FwmcRU+yhH7UKsaTF+4="},
}

// unpack makes its state directory.
func (old oldState) unpack(t *testing.T) *stateDir {
	t.Helper()
	_ = softhsm.NewToken(t) // finds SoftHSM, or skips
	d := &stateDir{binary: executable(t, realBinary), path: filepath.Join(t.TempDir(), "state")}
	file, err := os.Open(fmt.Sprintf("testdata/state-v%d.tar.gz", old.version))
	require.NoError(t, err)
	defer file.Close()
	plain, err := gzip.NewReader(file)
	require.NoError(t, err)
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return d
		}
		require.NoError(t, err)
		path := filepath.Join(d.path, header.Name)
		if header.Typeflag == tar.TypeDir {
			require.NoError(t, os.Mkdir(path, 0o700))
			continue
		}
		content, err := io.ReadAll(archive)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, content, 0o600))
	}
}

// contents are the files of a state directory by name, in short, but for what is SoftHSM's own: its configuration is written anew where
// the directory has moved, and doctor logs in.
func (d *stateDir) contents(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	require.NoError(t, filepath.WalkDir(d.path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || slices.Contains([]string{"softhsm2.conf", "token.object"}, entry.Name()) {
			return err
		}
		content, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, d.path)] = fmt.Sprintf("%x", sha256.Sum256(content))[:8]
		return err
	}))
	return found
}

// refuses runs verbs that must end with 3 and tell what to do, and change nothing.
func (d *stateDir) refuses(t *testing.T, said string, verbs ...[]string) {
	t.Helper()
	before := d.contents(t)
	for _, verb := range verbs {
		r, err := run(d.command(verb...))
		require.NoError(t, err)
		told := string(r.stdout) + string(r.stderr)
		assert.Equal(t, 3, r.code, "%s: %s", verb, told)
		assert.Contains(t, told, said, verb)
		assert.Contains(t, told, "hint: ", verb)
		assert.Equal(t, before, d.contents(t), verb)
	}
}

// requireOldState holds that everything which the program of the version has made is there and works.
func (d *stateDir) requireOldState(t *testing.T, old oldState) {
	t.Helper()
	output := func(args ...string) string {
		r, err := run(d.command(args...))
		require.NoError(t, err)
		require.Zero(t, r.code, "%s: %s", args, r.stderr)
		return strings.TrimSpace(string(r.stdout))
	}
	text := func(query string, args ...string) string {
		return output(append(args, "--query", query, "--output", "text")...)
	}
	assert.Equal(t, old.mac, text("Mac", "generate-mac", "--key-id", "alias/tokens", "--mac-algorithm", "HMAC_SHA_256",
		"--message", oldMessage))
	assert.Equal(t, "True", text("SignatureValid", "verify", "--key-id", old.signKey, "--signing-algorithm", "ECDSA_SHA_256",
		"--message", oldMessage, "--signature", old.signature))
	assert.Equal(t, "tokens & <more>", text("KeyMetadata.Description", "describe-key", "--key-id", old.macKey))
	assert.Equal(t, "team\tweb", text("Tags[].[TagKey,TagValue]", "list-resource-tags", "--key-id", old.macKey))
	assert.Equal(t, "PendingDeletion", text("KeyMetadata.KeyState", "describe-key", "--key-id", old.pending))
	assert.ElementsMatch(t, []string{old.macKey, old.signKey, old.pending}, strings.Fields(text("Keys[].KeyId", "list-keys")))
	assert.Contains(t, text("Policy", "get-key-policy", "--key-id", old.signKey), "role/signer")
	assert.Equal(t, "alice", text("Users[].UserName", "iam", "list-users"))
	assert.Contains(t, output("iam", "get-user-policy", "--user-name", "alice", "--policy-name", "mac"), "kms:GenerateMac")
	assert.Contains(t, output("iam", "get-role-policy", "--role-name", "signer", "--policy-name", "sign"), "kms:Sign")
	assert.Equal(t, old.accessKey, text("AccessKeyMetadata[].AccessKeyId", "iam", "list-access-keys", "--user-name", "alice"))

	store, err := sqlite.Open(t.Context(), filepath.Join(d.path, "kms.db"), sqlite.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	require.NoError(t, store.Verify(t.Context()))
	rec, err := store.Get(t.Context(), keystore.KeyRef("us-west-2", "111122223333", old.half))
	require.NoError(t, err, "nobody can prove in a copy that the one who made it is dead")
	assert.Equal(t, old.sealed, len(rec.Seal) > 0)
	rec.Seal = nil
	half, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	assert.Equal(t, keystore.Creating, half.State)
}

// copies are the stores of before a migration.
func (d *stateDir) copies(t *testing.T, old oldState) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(d.path, fmt.Sprintf("kms.db.format-%d-*", old.version)))
	require.NoError(t, err)
	return found
}

// A state directory of a version before is used by no command until doctor --migrate has brought it to this version; then everything
// in it works, and what it was is kept. Its token, where the serial alone has told it so far, is bound by the first command after that.
func TestStateOfTheVersionBefore(t *testing.T) {
	for _, old := range oldStates {
		t.Run(fmt.Sprint(old.version), func(t *testing.T) { testOldState(t, old) })
	}
}

func testOldState(t *testing.T, old oldState) {
	d := old.unpack(t)
	d.refuses(t, "doctor --migrate", []string{"list-keys"}, []string{"create-key"},
		[]string{"doctor"}, []string{"doctor", "--repair"}, []string{"iam", "list-users"},
		[]string{"generate-mac", "--key-id", "alias/tokens", "--mac-algorithm", "HMAC_SHA_256", "--message", oldMessage},
		[]string{"backup", filepath.Join(t.TempDir(), "kms.bak")})

	alive, err := os.OpenFile(filepath.Join(d.path, "locks", strings.Repeat("0123456789abcdef", 3)+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	require.NoError(t, syscall.Flock(int(alive.Fd()), syscall.LOCK_EX))
	d.refuses(t, "another process has the store open", []string{"doctor", "--migrate"},
		[]string{"serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"})
	require.NoError(t, alive.Close())

	r, err := run(d.command("doctor", "--migrate"))
	require.NoError(t, err)
	assert.Zero(t, r.code, "%s%s", r.stdout, r.stderr)
	copies := d.copies(t, old)
	require.Len(t, copies, 1)
	assert.Contains(t, string(r.stdout), fmt.Sprintf("brought from version %d to 8; as it was before it is kept in %s\n", old.version,
		copies[0]))
	assert.Equal(t, !old.bound, strings.Contains(string(r.stdout), "is known by its serial alone"), "%s", r.stdout)
	assert.Equal(t, old.bound, d.boundTo(t).Binding != nil)
	d.requireOldState(t, old)
	d.requireMigrationRecorded(t, old)
	bound := d.boundTo(t)
	require.NotNil(t, bound.Binding)
	r, err = run(d.command("doctor", "--migrate"))
	require.NoError(t, err)
	assert.Contains(t, string(r.stdout), "is of version 8 already")
	assert.Contains(t, string(r.stdout), "is the one that holds the region's keys")
	assert.Equal(t, copies, d.copies(t, old))
	assert.Equal(t, bound, d.boundTo(t))
}

// requireMigrationRecorded holds that the audit log has an intent and an end of the migration, once.
func (d *stateDir) requireMigrationRecorded(t *testing.T, old oldState) {
	t.Helper()
	var kinds []string
	require.NoError(t, audit.Scan(filepath.Join(d.path, "audit"), func(line []byte) error {
		var r struct {
			EventName, EventType, ErrorCode string
			RequestParameters               struct{ FromVersion, ToVersion int }
		}
		if err := json.Unmarshal(line, &r); err != nil || r.EventName != "MigrateStore" {
			return err
		}
		assert.Equal(t, [2]int{old.version, 8}, [2]int{r.RequestParameters.FromVersion, r.RequestParameters.ToVersion})
		assert.Empty(t, r.ErrorCode)
		kinds = append(kinds, r.EventType)
		return nil
	}))
	assert.Equal(t, []string{"Pkcs11KmsIntent", "AwsApiCall"}, kinds)
}

// The server does the same when it starts.
func TestServerMigratesTheVersionBefore(t *testing.T) {
	for _, old := range oldStates {
		d := old.unpack(t)
		cmd := d.command("serve", "--listen", "127.0.0.1:0", "--admin-listen", "off")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		ready := make([]byte, 1)
		_, err = io.ReadFull(out, ready) // it prints when it is ready
		assert.NoError(t, err)
		assert.Len(t, d.copies(t, old), 1)
		assert.NotNil(t, d.boundTo(t).Binding)
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		_, err = io.Copy(io.Discard, out)
		require.NoError(t, err)
		require.NoError(t, cmd.Wait())
		d.requireOldState(t, old)
		d.requireMigrationRecorded(t, old)
	}
}
