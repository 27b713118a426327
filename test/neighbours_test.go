package test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/softhsm"
)

// settle lets other applications make objects in a token, one of them with a label that is given, and returns the objects
// as they are to stay.
func settle(t *testing.T, tok softhsm.TestToken, label string) []rawObject {
	t.Helper()
	before := raw(t, tok, rawJob{}).Objects
	printed, err := opensc(t, tok, "--keygen", "--key-type", "GENERIC:32", "--label", "made by pkcs11-tool", "--id", "aa01",
		"--sensitive", "--usage-sign").CombinedOutput()
	require.NoError(t, err, "%s", printed)
	viaCrypto11(t, tok, crypto11Job{Make: []byte("made by crypto11")})
	after := raw(t, tok, rawJob{Make: []rawObject{
		{Class: pkcs11.CKO_SECRET_KEY, Label: "no CKA_ID"},
		{Class: pkcs11.CKO_SECRET_KEY, Label: "pkcs11kms/service/unheard-of", ID: "aa02", Extractable: true},
		{Class: pkcs11.CKO_SECRET_KEY, Label: label, ID: "aa03"},
		{Class: pkcs11.CKO_PRIVATE_KEY, Label: "a key pair", ID: "aa04"},
		{Class: pkcs11.CKO_DATA, Label: "data"},
	}}).Objects
	made := without(after, before)
	require.Len(t, made, 8, "the objects of other applications")
	return made
}

// without returns the objects that are not among others.
func without(objects, others []rawObject) []rawObject {
	return slices.DeleteFunc(slices.Clone(objects), func(o rawObject) bool {
		return slices.ContainsFunc(others, func(other rawObject) bool { return assert.ObjectsAreEqual(o, other) })
	})
}

// byClass are the names of the classes that doctor looks at. It reports the halves of a pair, which the neighbours have only
// as a whole, as one.
var byClass = map[uint]string{
	pkcs11.CKO_SECRET_KEY:  "CKO_SECRET_KEY",
	pkcs11.CKO_PRIVATE_KEY: "CKO_PRIVATE_KEY and CKO_PUBLIC_KEY",
}

// reported is how doctor reports the keys among objects.
func reported(objects []rawObject) []doctor.ObjectReport {
	reports := []doctor.ObjectReport{}
	for _, o := range objects {
		if class, ok := byClass[o.Class]; ok {
			reports = append(reports, doctor.ObjectReport{Class: class, CKAID: o.ID, Label: o.Label, Length: int(o.ValueLen)})
		}
	}
	return reports
}

// halfMade dies in the making of a key and returns the key's id.
func (d *stateDir) halfMade(t *testing.T, step string) string {
	t.Helper()
	before := ids(d.records(t))
	d.crash(t, step)
	for _, k := range unfinished(d.records(t)) {
		if !slices.Contains(before, k.ID) {
			return k.ID
		}
	}
	t.Fatalf("dying at %s left no half-made key", step)
	return ""
}

// TestOtherApplicationsAreLeftAlone: keys are made and used, crash, and are tidied up, on a token that others use too.
func TestOtherApplicationsAreLeftAlone(t *testing.T) {
	d := newStateDir(t)
	message := []byte("message")
	keyID := d.createKey(t)
	mac := d.generateMAC(t, keyID, message)
	neighbours := settle(t, d.token, keyID)

	for _, step := range []string{"record-written", "object-made"} {
		// An object with the label of the half-made key is not the janitor's for that.
		namesake := rawObject{Class: pkcs11.CKO_SECRET_KEY, Label: d.halfMade(t, step), ID: "bb"}
		before := raw(t, d.token, rawJob{}).Objects
		neighbours = append(neighbours, without(raw(t, d.token, rawJob{Make: []rawObject{namesake}}).Objects, before)...)
		d.listKeys(t)
	}
	require.Len(t, neighbours, 10)
	d.crash(t, "flipped")
	d.createKey(t)
	d.must(t, nil, "disable-key", "--key-id", keyID)
	d.must(t, nil, "enable-key", "--key-id", keyID)
	d.verifyMAC(t, keyID, message, mac)

	now := raw(t, d.token, rawJob{}).Objects
	assert.Subset(t, now, neighbours, "objects of other applications")
	ours := without(now, neighbours)
	assert.Len(t, ours, 4, "three keys and the region's binding key")
	d.assertRecorded(t, ours)
	assert.ElementsMatch(t, reported(neighbours), d.doctor(t).Unknown)
}

// TestStateDirectoriesShareAToken: neither touches what the other has made, finished or not.
func TestStateDirectoriesShareAToken(t *testing.T) {
	tok := softhsm.NewToken(t)
	a := newStateDirOn(t, tok)
	ofA := raw(t, tok, rawJob{}).Objects
	b := newStateDirOn(t, tok)
	message := []byte("message")
	keyID := b.createKey(t)
	mac := b.generateMAC(t, keyID, message)
	b.halfMade(t, "object-made")
	objects := without(raw(t, tok, rawJob{}).Objects, ofA)
	require.Len(t, objects, 3, "a key, one that is half made, and b's binding key")

	kept := a.createKey(t)
	for _, step := range []string{"record-written", "object-made", "flipped"} {
		a.crash(t, step)
		a.listKeys(t)
	}
	now := raw(t, tok, rawJob{}).Objects
	assert.Subset(t, now, objects, "objects of the other state directory")
	a.assertRecorded(t, without(now, objects))
	assert.ElementsMatch(t, reported(objects), a.doctor(t).Unknown)

	assert.Equal(t, []string{keyID}, b.listKeys(t), "and its janitor removes the half-made key")
	b.verifyMAC(t, keyID, message, mac)
	ours := without(now, objects)
	now = raw(t, tok, rawJob{}).Objects
	assert.Subset(t, now, ours)
	b.assertRecorded(t, without(now, ours))
	assert.ElementsMatch(t, reported(ours), b.doctor(t).Unknown)
	a.assertUsable(t, kept)

	refused, err := run(a.command("describe-key", "--key-id", keyID))
	require.NoError(t, err)
	assert.Equal(t, 1, refused.code)
	assert.Contains(t, string(refused.stderr), "NotFoundException")
}

// saveStore moves the store away, and returns a function that puts it back in the place of whatever is there then. Nobody
// may have it open at either time.
func (d *stateDir) saveStore(t *testing.T) (restore func()) {
	t.Helper()
	saved := map[string][]byte{}
	files := func() []string {
		found, err := filepath.Glob(filepath.Join(d.path, "kms.db*"))
		require.NoError(t, err)
		return found
	}
	for _, file := range files() {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		saved[file] = text
	}
	require.NotEmpty(t, saved)
	return func() {
		t.Helper()
		for _, file := range files() {
			require.NoError(t, os.Remove(file))
		}
		for file, text := range saved {
			require.NoError(t, os.WriteFile(file, text, 0o600))
		}
	}
}

// TestRestoredStoreDestroysNothing: a key that is newer than the backup of the store is unknown to it, and waits in the
// token for the store that knows it.
func TestRestoredStoreDestroysNothing(t *testing.T) {
	d := newStateDir(t)
	older := d.createKey(t)
	restoreBackup := d.saveStore(t)
	message := []byte("message")
	newer := d.createKey(t)
	mac := d.generateMAC(t, newer, message)
	objects := raw(t, d.token, rawJob{}).Objects
	restoreNewest := d.saveStore(t)

	restoreBackup()
	assert.Equal(t, []string{older}, d.listKeys(t))
	d.halfMade(t, "object-made")
	third := d.createKey(t)
	assert.Subset(t, raw(t, d.token, rawJob{}).Objects, objects)
	unknown := d.putBack(t).Unknown
	require.Len(t, unknown, 1)
	assert.Equal(t, newer, unknown[0].Label)
	refused, err := run(d.command(macArgs("generate-mac", newer, message)...))
	require.NoError(t, err)
	assert.Equal(t, 1, refused.code)
	assert.Contains(t, string(refused.stderr), "NotFoundException")

	restoreNewest()
	d.verifyMAC(t, newer, message, mac)
	d.assertUsable(t, older)
	unknown = d.putBack(t).Unknown
	require.Len(t, unknown, 1)
	assert.Equal(t, third, unknown[0].Label)
}
