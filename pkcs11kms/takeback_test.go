package pkcs11kms

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

func createOf(t *testing.T, c *Client, spec types.KeySpec) error {
	_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usageOf(spec)})
	return err
}

// A key whose making cannot be recorded is taken back: a client that repeats the call, as SDKs do after a 500, has one key in the end, and
// the token one object.
func TestAKeyThatIsNotRecordedIsTakenBack(t *testing.T) {
	for _, spec := range kinds {
		log := &auditLog{}
		cfg := newConfig(t)
		cfg.Audit, cfg.SealRecords = log, true
		c := openClient(t, cfg)
		before := len(objectsOf(t, c.region.Token))
		objects := map[types.KeyUsageType]int{types.KeyUsageTypeGenerateVerifyMac: 1, types.KeyUsageTypeSignVerify: 2}
		log.record = errors.New("the disk is full")
		requireCode(t, createOf(t, c, spec), "KMSInternalException")
		told := log.records
		log.record = nil
		require.Len(t, objectsOf(t, c.region.Token), before)
		require.Empty(t, listAll(t, c))
		require.Len(t, told, 2)
		require.NoError(t, told[0].Err)
		requireCode(t, told[1].Err, "KMSInternalException")
		require.Equal(t, told[0].RequestID, told[1].RequestID)
		wrote := told[1].Wrote.Last
		require.NotEmpty(t, wrote)
		require.True(t, wrote[len(wrote)-1].Deleted, "the last that it did")
		require.NoError(t, createOf(t, c, spec))
		require.Len(t, listAll(t, c), 1)
		require.Len(t, objectsOf(t, c.region.Token), before+objects[usageOf(spec)])
		requireNoDiscrepancies(t, c.bridge)
	}
}

// So is a grant, unless it was there before and the call has only found it by its name.
func TestAGrantThatIsNotRecordedIsTakenBack(t *testing.T) {
	log := &auditLog{}
	cfg := newConfig(t)
	cfg.Audit = log
	c := openClient(t, cfg)
	mac := mustCreate(t, c, types.KeySpecHmac256)
	grantee := mustCreatePrincipal(t, c.bridge, iam.PrincipalName{Type: keystore.PrincipalRole, Name: "Grantee"}).ARN
	grant := func(name *string) error {
		_, err := c.CreateGrant(t.Context(), &kms.CreateGrantInput{KeyId: mac.KeyId, GranteePrincipal: &grantee, Name: name,
			Operations: []types.GrantOperation{types.GrantOperationGenerateMac}})
		return err
	}
	grants := func() int {
		out, err := c.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: mac.KeyId})
		require.NoError(t, err)
		return len(out.Grants)
	}
	name := "named"
	for _, tc := range []struct {
		name          *string
		before, after int
	}{{nil, 0, 1}, {&name, 1, 2}} {
		log.record = errors.New("the disk is full")
		requireCode(t, grant(tc.name), "KMSInternalException")
		log.record = nil
		require.Equal(t, tc.before, grants())
		require.NoError(t, grant(tc.name))
		require.Equal(t, tc.after, grants())
	}
	log.record = errors.New("the disk is full")
	requireCode(t, grant(&name), "KMSInternalException")
	log.record = nil
	require.Equal(t, 2, grants(), "it was made by the call before")
}

func listAll(t *testing.T, c *Client) []types.KeyListEntry {
	out, err := c.ListKeys(t.Context(), nil)
	require.NoError(t, err)
	return out.Keys
}

// What the token or the store keeps from being taken back at once is left to the janitor.
func TestWhatCannotBeTakenBackIsLeftToTheJanitor(t *testing.T) {
	log := &auditLog{}
	cfg := newConfig(t)
	cfg.Audit = log
	c, store, _ := withFaultsAnd(t, cfg)
	log.record = errors.New("the disk is full")
	store.hook(func(changes []keystore.Change) error {
		for _, change := range changes {
			if change.Op == keystore.Delete {
				return errDisk
			}
		}
		return nil
	}, nil)
	requireCode(t, createOf(t, c, types.KeySpecHmac256), "KMSInternalException")
	log.record = nil
	require.Empty(t, listAll(t, c), "nobody sees it")
	store.hook(nil, nil)
	_, err := c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	requireNothingHalfMade(t, c, 0)
}

// A key that somebody has found and changed before it could be taken back stays.
func TestAKeyThatIsInUseIsNotTakenBack(t *testing.T) {
	log := &auditLog{}
	cfg := newConfig(t)
	cfg.Audit = log
	c := openClient(t, cfg)
	log.onRecord = func(e audit.Event) error {
		if e.Operation != "CreateKey" || e.Err != nil {
			return nil
		}
		keys := listAll(t, c)
		require.Len(t, keys, 1)
		createAlias(t, c, "alias/mine", keys[0].KeyId)
		return errors.New("the disk is full")
	}
	requireCode(t, createOf(t, c, types.KeySpecHmac256), "KMSInternalException")
	log.onRecord = nil
	_, err := generate(t.Context(), c, ptr("alias/mine"), []byte("m"))
	require.NoError(t, err)
}

// An access key, whose secret is told once, is taken back, too.
func TestAnAccessKeyThatIsNotRecordedIsTakenBack(t *testing.T) {
	c, log := auditedClient(t)
	alice := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "alice"}
	_, err := asRoot(c.bridge).CreatePrincipal(t.Context(), alice, iam.PrincipalOptions{})
	require.NoError(t, err)
	for _, owner := range []iam.PrincipalName{alice, {}} {
		log.record = errors.New("the disk is full")
		for range 3 { // more than a user may have
			made, err := asRoot(c.bridge).CreateAccessKey(t.Context(), owner)
			require.ErrorContains(t, err, "the disk is full")
			require.Zero(t, made)
		}
		log.record = nil
		keys, err := asRoot(c.bridge).ListAccessKeys(t.Context(), owner)
		require.NoError(t, err)
		require.Empty(t, keys)
		_, err = asRoot(c.bridge).CreateAccessKey(t.Context(), owner)
		require.NoError(t, err)
	}
	requireNoDiscrepancies(t, c.bridge)
}

const unrecordedDir = "PKCS11KMS_UNRECORDED"

// The same with the log's file, which can be no longer at exactly the record of the outcome: the process is red, and doctor finds the
// intent.
func TestAnOutcomeThatDoesNotFit(t *testing.T) {
	if dir := os.Getenv(unrecordedDir); dir != "" {
		createWithoutRoom(t, dir)
		return
	}
	dir := filepath.Join(t.TempDir(), "audit")
	child := exec.Command(os.Args[0], "-test.run=^TestAnOutcomeThatDoesNotFit$")
	child.Env = append(os.Environ(), unrecordedDir+"="+dir)
	out, err := child.CombinedOutput()
	require.NoError(t, err, "%s", out)
	open, err := audit.OpenIntents(dir, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Len(t, open, 1)
	require.Equal(t, "CreateKey", open[0].EventName)
}

// limited is the log of files that can be no longer from the outcome of a key's making on, until something else is recorded.
type limited struct {
	*audit.Log
	dir    string
	unfit  bool
	before unix.Rlimit
}

func (l *limited) Record(ctx context.Context, e audit.Event) error {
	if l.unfit && e.Operation == "CreateKey" {
		files, err := filepath.Glob(filepath.Join(l.dir, "*.jsonl"))
		if err != nil {
			return err
		}
		info, err := os.Stat(files[0])
		if err != nil {
			return err
		}
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(info.Size()), Max: l.before.Max}); err != nil {
			return err
		}
	}
	return l.Log.Record(ctx, e)
}

func createWithoutRoom(t *testing.T, dir string) {
	signal.Ignore(syscall.SIGXFSZ)
	log, err := audit.Open(dir, audit.Options{})
	require.NoError(t, err)
	l := &limited{Log: log, dir: dir}
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &l.before))
	cfg := newConfig(t)
	cfg.Audit = l
	c := openClient(t, cfg)
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	text := make([]byte, 900)
	for i := range text {
		text[i] = 'x'
	}
	for range 4000 { // longer than every other file that is written to
		require.NoError(t, log.Record(t.Context(), audit.Event{Service: "kms", Operation: "GenerateMac", ReadOnly: true,
			Origin: audit.Origin{Remote: true, UserAgent: string(text)}}))
	}
	l.unfit = true
	requireCode(t, createOf(t, c, types.KeySpecHmac256), "KMSInternalException")
	require.Error(t, log.Health())
	require.Len(t, objectsOf(t, c.region.Token), 0)
	_, err = c.ListKeys(t.Context(), nil)
	requireCode(t, err, "KMSInternalException")
	requireCode(t, createOf(t, c, types.KeySpecHmac256), "KMSInternalException")

	l.unfit = false
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &l.before))
	require.NoError(t, createOf(t, c, types.KeySpecHmac256))
	require.Len(t, listAll(t, c), 1)
	require.Len(t, objectsOf(t, c.region.Token), 1)
	require.NoError(t, log.Health())
}
