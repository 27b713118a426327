package doctor

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
)

// find returns the checks of an area and subject.
func (r *Report) find(area, subject string) (found []Check) {
	for _, c := range r.Checks {
		if c.Area == area && c.Subject == subject {
			found = append(found, c)
		}
	}
	return found
}

func TestDoctorOnAHealthyBridge(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	require.Len(t, r.Regions, 1)
	region := r.Regions[0]
	require.Equal(t, []string{"HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512",
		"RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519"}, region.Token.KeySpecs)
	require.Empty(t, region.Unknown)
	require.Len(t, region.Keys, 2)
	require.Equal(t, keyring.BindingKey, region.Keys[1].KeyID)
	require.True(t, region.Keys[1].Service)
	require.Equal(t, *key.KeyId, region.Keys[0].KeyID)
	require.Equal(t, *key.KeyId, region.Keys[0].Object.Label)
	require.Equal(t, 32, region.Keys[0].Object.Length)
	text, err := json.Marshal(r)
	require.NoError(t, err)
	require.Contains(t, string(text), `"unknown_objects":[]`)
}

func TestDoctorFinds(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	lost, kept := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac512)
	half := halfMade(c.inside.Store.Instance(), keystore.Creating)
	defer c.inside.Keys.InProgress(half.Ref())()
	put(t, c, half.Put(0))
	foreign := bytes.Repeat([]byte{0xab}, 16)
	_, err := c.token().GenerateHMACKey(t.Context(), token.SHA256, foreign, "somebody else's")
	require.NoError(t, err)
	for _, k := range examine(t.Context(), cfg).Regions[0].Keys {
		if k.KeyID == *lost.KeyId {
			require.NoError(t, c.token().DestroyKey(t.Context(), unhex(t, k.CKAID), k.KeyID))
		}
	}

	r := examine(t.Context(), cfg)
	require.False(t, r.OK())
	require.Equal(t, StatusError, r.find("key", *lost.KeyId)[0].Status)
	require.Contains(t, r.find("key", *lost.KeyId)[0].Text, "no object in the token")
	require.NotEmpty(t, r.find("key", *lost.KeyId)[0].Hint)
	require.Equal(t, StatusOK, r.find("key", *kept.KeyId)[0].Status)
	require.Equal(t, StatusWarning, r.find("key", half.ID)[0].Status)
	unknown := r.find("object", strings.Repeat("ab", 16))
	require.Len(t, unknown, 1)
	require.Equal(t, `unknown CKO_SECRET_KEY "somebody else's": not ours, left alone`, unknown[0].Text)
	require.Len(t, r.Regions[0].Unknown, 1)

	_, err = generate(t.Context(), c, lost.KeyId, []byte("m"))
	requireAPIError(t, err, "KeyUnavailableException", *lost.Arn+" is unavailable.")
	require.ErrorIs(t, err, token.ErrKeyMissing)
	_, err = c.token().Describe(t.Context(), foreign)
	require.NoError(t, err, "left alone")
}

// An object that no record names, and that is labelled as this program labels its keys, is called what it may be.
func TestDoctorKnowsOrphans(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	for _, label := range []string{unknownID, "x" + unknownID, unknownID + "0", strings.ToUpper(unknownID)} {
		id := randomID(t)
		_, err := c.token().GenerateHMACKey(t.Context(), token.SHA256, id, label)
		require.NoError(t, err)
		text := examine(t.Context(), cfg).find("object", hex.EncodeToString(id))[0].Text
		require.Equal(t, label == unknownID, strings.Contains(text, "its label is a key id"), text)
		require.Equal(t, label != unknownID, strings.Contains(text, "not ours"), text)
	}
}

func randomID(t *testing.T) []byte {
	t.Helper()
	id := make([]byte, 16)
	_, err := rand.Read(id)
	require.NoError(t, err)
	return id
}

func unhex(t *testing.T, text string) []byte {
	var b []byte
	for i := 0; i+1 < len(text); i += 2 {
		n := strings.IndexByte("0123456789abcdef", text[i])<<4 | strings.IndexByte("0123456789abcdef", text[i+1])
		b = append(b, byte(n))
	}
	require.Len(t, b, 16)
	return b
}

// The report goes as far as it can.
func TestDoctorWithoutATokenOrAStore(t *testing.T) {
	cfg := newConfig(t)
	tok := softhsm.NewToken(t)
	noToken := cfg
	noToken.Regions = map[string]pkcs11kms.Region{testRegion: {Token: strings.Replace(tok.URI(tok.PINFile), "token=", "token=x", 1)}}
	r := examine(t.Context(), noToken)
	require.False(t, r.OK())
	require.Equal(t, StatusOK, r.find("store", cfg.StorePath)[0].Status)
	require.Equal(t, StatusError, r.find("token", testRegion)[0].Status)
	require.NotEmpty(t, r.find("token", testRegion)[0].Hint)

	noStore := cfg
	noStore.StorePath += ".missing"
	r = examine(t.Context(), noStore)
	require.Equal(t, StatusError, r.find("store", noStore.StorePath)[0].Status)
	require.Equal(t, StatusOK, r.find("token", testRegion)[0].Status)

	r = examine(t.Context(), statedir.Config{})
	require.Equal(t, "config", r.Checks[0].Area)
}

// Doctor tells of policies that name principals who are gone, and of those that cannot be read.
func TestDoctorReadsKeyPolicies(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	role := iam.PrincipalName{Type: keystore.PrincipalRole, Name: "gone"}
	made, err := c.bridge.IAM().As(c.bridge.Root()).CreatePrincipal(t.Context(), role, iam.PrincipalOptions{})
	require.NoError(t, err)
	dangling, unreadable := mustCreate(t, c, "HMAC_256"), mustCreate(t, c, "HMAC_256")
	document := `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + testAccount + `:root"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Allow","Principal":{"AWS":"` + made.ARN + `"},"Action":"kms:GenerateMac","Resource":"*"}]}`
	_, err = c.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: dangling.KeyId, Policy: &document})
	require.NoError(t, err)
	require.Len(t, examine(t.Context(), cfg).find("key", *dangling.KeyId), 1)
	require.NoError(t, c.bridge.IAM().As(c.bridge.Root()).DeletePrincipal(t.Context(), role))

	record, version := storedKey(t, c, unreadable.KeyId)
	record.Policy = "{"
	put(t, c, record.Put(version))

	r := examine(t.Context(), cfg)
	require.Equal(t, StatusWarning, r.find("key", *dangling.KeyId)[1].Status)
	require.Contains(t, r.find("key", *dangling.KeyId)[1].Text, made.ID)
	require.Equal(t, StatusError, r.find("key", *unreadable.KeyId)[1].Status)
	_, err = generate(t.Context(), c, unreadable.KeyId, []byte("m"))
	require.ErrorContains(t, err, "KMSInternalException")
}

// Doctor does what requests do: it writes, and uses every key.
func TestDoctorTriesWhatRequestsDo(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	require.NoError(t, c.bridge.Close())
	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), r.Checks)
	require.Contains(t, r.find("store", cfg.StorePath)[1].Text, "takes changes")

	// An object that is there and of no use: it may be used with another hash only.
	store, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	rec, err := store.Get(t.Context(), keystore.KeyRef(testRegion, testAccount, *key.KeyId))
	require.NoError(t, err)
	record, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	record.Spec = "HMAC_512"
	_, err = store.Commit(t.Context(), record.Put(rec.Version))
	require.NoError(t, err)
	checks := examine(t.Context(), cfg).find("key", *key.KeyId)
	require.Contains(t, checks[len(checks)-1].Text, "makes no MAC: C_SignInit")

	broken := &hookedStore{Store: store}
	broken.hook(func([]keystore.Change) error { return keystore.ErrFull }, nil)
	cfg.StorePath, cfg.Store = "", broken
	checks = examine(t.Context(), cfg).find("store", "store")
	require.Equal(t, StatusError, checks[1].Status)
	require.Contains(t, checks[1].Text, "nothing can be changed: store has no room")
}

func TestDoctorOnSigningKeys(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	sound := mustCreate(t, c, types.KeySpecRsa2048)
	lost, swapped := mustCreate(t, c, types.KeySpecEccNistP256), mustCreate(t, c, types.KeySpecEccNistP256)
	edwards := mustCreate(t, c, types.KeySpecEccNistEdwards25519)
	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	require.Len(t, r.Regions[0].Keys, 5, "and the region's binding key")
	require.Empty(t, r.Regions[0].Unknown, "the halves of a pair are known")
	require.Equal(t, "CKO_PRIVATE_KEY", r.Regions[0].Keys[0].Object.Class)

	record, _ := storedKey(t, c, lost.KeyId)
	require.NoError(t, c.token().DestroyKeyPair(t.Context(), record.CKAID, record.ID))
	record, _ = storedKey(t, c, swapped.KeyId)
	require.NoError(t, c.token().DestroyKeyPair(t.Context(), record.CKAID, record.ID))
	_, _, err := c.token().GenerateKeyPair(t.Context(), pubkey.P256, record.CKAID, record.ID)
	require.NoError(t, err)
	record, _ = storedKey(t, c, edwards.KeyId)
	require.NoError(t, c.token().DestroyKeyPair(t.Context(), record.CKAID, record.ID))
	_, _, err = c.token().GenerateKeyPair(t.Context(), pubkey.Edwards25519, record.CKAID, record.ID)
	require.NoError(t, err)
	foreign := []byte("sixteen bytes ..")
	_, _, err = c.token().GenerateKeyPair(t.Context(), pubkey.P256, foreign, "somebody else's")
	require.NoError(t, err)

	r = examine(t.Context(), cfg)
	require.Equal(t, StatusOK, r.find("key", *sound.KeyId)[0].Status)
	require.Contains(t, r.find("key", *lost.KeyId)[0].Text, "no object in the token")
	require.Equal(t, StatusError, r.find("key", *swapped.KeyId)[0].Status)
	require.Contains(t, r.find("key", *swapped.KeyId)[0].Text, "another public key than the record")
	require.Contains(t, r.find("key", *edwards.KeyId)[0].Text, "another public key than the record")
	require.Len(t, r.Regions[0].Unknown, 1, "a pair is one thing")
	require.Equal(t, "CKO_PRIVATE_KEY and CKO_PUBLIC_KEY", r.Regions[0].Unknown[0].Class)
	require.NoError(t, DestroyObject(t.Context(), c.Client, foreign))
	require.Empty(t, examine(t.Context(), cfg).Regions[0].Unknown)
	record, _ = storedKey(t, c, sound.KeyId)
	var refused *pkcs11kms.RefusedError
	require.ErrorAs(t, DestroyObject(t.Context(), c.Client, record.CKAID), &refused, "it is a key's")
	_, _, err = AdoptKey(t.Context(), c.Client, AdoptOptions{ID: record.CKAID, KeySpec: types.KeySpecHmac256})
	require.ErrorAs(t, err, &refused)
}

// TestDoctorTellsOfEd25519ph: which of the two algorithms the token can do.
func TestDoctorTellsOfEd25519ph(t *testing.T) {
	found := examine(t.Context(), newConfig(t)).find("token", "us-west-2")
	text := ""
	for _, check := range found {
		require.Equal(t, StatusOK, check.Status, check.Text)
		text += check.Text + "\n"
	}
	require.Contains(t, text, "its ECC_NIST_EDWARDS25519 keys sign by ED25519_SHA_512, and not by ED25519_PH_SHA_512\n")
	require.True(t, strings.Contains(text, "ECC_SECG_P256K1, ECC_NIST_EDWARDS25519"), text)
}

// TestDoctorKnowsServiceKeys: their objects are no keys of the account's, and not unknown.
func TestDoctorKnowsServiceKeys(t *testing.T) {
	cfg := newConfig(t)
	b := openClient(t, cfg).bridge
	_, err := b.IAM().As(b.Root()).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	require.Empty(t, r.Regions[0].Unknown)
	require.Len(t, r.Regions[0].Keys, 2)
	for i, name := range []string{"access-keys", "binding"} {
		require.Equal(t, "pkcs11kms/service/"+name, r.Regions[0].Keys[i].KeyID)
		require.True(t, r.Regions[0].Keys[i].Service)
	}
}

// Policies that were written when only kms: actions were asked for may allow more now. They are listed, and a policy of keys is not.
func TestDoctorListsPoliciesThatAllowMoreThanKeys(t *testing.T) {
	cfg := newConfig(t)
	b := openClient(t, cfg).bridge
	root := b.IAM().As(b.Root())
	name := iam.PrincipalName{Type: keystore.PrincipalRole, Name: "Operator"}
	_, err := root.CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
	require.NoError(t, err)
	allow := func(effect, action string) string {
		return `{"Version": "2012-10-17", "Statement": {"Effect": "` + effect + `", "Action": ` + action + `, "Resource": "*"}}`
	}
	for policyName, document := range map[string]string{"keys": allow("Allow", `"kms:*"`), "denies": allow("Deny", `"*"`),
		"one": allow("Allow", `["kms:Sign", "IAM:createuser"]`), "own": allow("Allow", `"pkcs11kms:Adopt*"`), "all": allow("Allow", `"*"`)} {
		require.NoError(t, root.PutPrincipalPolicy(t.Context(), name, policyName, document))
	}
	texts := map[string]string{}
	for _, c := range examine(t.Context(), cfg).find("role", "Operator") {
		require.Equal(t, StatusWarning, c.Status)
		policyName := strings.Split(c.Text, `"`)[1]
		texts[policyName] = c.Text
		require.Contains(t, c.Hint, "pkcs11kms iam get-role-policy --role-name Operator --policy-name "+policyName)
	}
	require.Len(t, texts, 3)
	require.Equal(t, `its policy "one" allows more than the use of keys: iam:CreateUser`, texts["one"])
	require.Equal(t, `its policy "own" allows more than the use of keys: pkcs11kms:AdoptKey`, texts["own"])
	require.Regexp(t, ` allows more than the use of keys: iam:CreateUser and \d+ more$`, texts["all"])
}

// A role's trust policy that an earlier version has kept lets nobody assume the role, and is told; one that counts is not.
func TestDoctorListsTrustPoliciesThatHaveNoEffect(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	root := c.bridge.IAM().As(c.bridge.Root())
	const trust = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}}`
	for _, name := range []string{"Old", "New"} {
		_, err := root.CreatePrincipal(t.Context(), iam.PrincipalName{Type: keystore.PrincipalRole, Name: name},
			iam.PrincipalOptions{TrustPolicy: trust})
		require.NoError(t, err)
	}
	require.Empty(t, examine(t.Context(), cfg).find("role", "Old"))
	store := c.bridge.Core().Store
	recs, err := store.Lookup(t.Context(), keystore.IndexPrincipalName,
		keystore.PrincipalNameValue(testAccount, keystore.PrincipalRole, "Old"), keystore.Ref{}, 1)
	require.NoError(t, err)
	record, err := keystore.DecodePrincipal(recs[0])
	require.NoError(t, err)
	record.Trust, record.TrustPolicy = trust, ""
	_, err = c.bridge.Core().Cache.Commit(t.Context(), record.Put(recs[0].Version))
	require.NoError(t, err)
	found := examine(t.Context(), cfg)
	require.Empty(t, found.find("role", "New"))
	require.Len(t, found.find("role", "Old"), 1)
	require.Contains(t, found.find("role", "Old")[0].Hint, "pkcs11kms iam update-assume-role-policy --role-name Old")
}
