package doctor

import (
	"context"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/halfmade"
)

// leave leaves a half-made object in a token, as a process that was killed.
func leave(t *testing.T, tok softhsm.TestToken, class, keyType uint) (file string) {
	t.Helper()
	file, err := halfmade.Leave(tok.ConfigFile, tok.Serial, class, keyType)
	require.NoError(t, err)
	return file
}

// Doctor tells of half-made objects, and destroys those that it finds at both looks.
func TestDestroyHalfMade(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	requireNothing := func() {
		t.Helper()
		r := examine(t.Context(), cfg)
		require.Empty(t, r.Regions[0].HalfMade)
		require.Empty(t, r.find("object", testRegion))
	}
	requireNothing()
	destroyed, err := DestroyHalfMade(t.Context(), c.Client, HalfMadeOptions{Apart: time.Hour})
	require.NoError(t, err)
	require.Empty(t, destroyed, "and nothing is waited for")

	old := []string{leave(t, tok, pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET), leave(t, tok, pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_EC)}
	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "nothing is amiss with a key")
	require.Equal(t, []ObjectReport{{Class: "CKO_SECRET_KEY"}, {Class: "CKO_PRIVATE_KEY"}}, r.Regions[0].HalfMade)
	require.Equal(t, []Check{{"object", testRegion, StatusWarning, "2 half-made objects (CKO_SECRET_KEY, CKO_PRIVATE_KEY) without a CKA_ID, " +
		"which no record can want: left by a process that was killed while it made a key, or being made just now",
		"have destroyed what is there at two looks, a minute apart: pkcs11kms doctor --destroy-half-made --region us-west-2"}},
		r.find("object", testRegion))
	require.Empty(t, r.Regions[0].Unknown)

	var young string
	told := 0
	waiting := func(found []ObjectReport, left time.Duration) {
		told++
		require.Len(t, found, 2)
		require.Equal(t, time.Millisecond, left)
		young = leave(t, tok, pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET)
	}
	destroyed, err = DestroyHalfMade(t.Context(), c.Client, HalfMadeOptions{Apart: time.Millisecond, Waiting: waiting})
	require.NoError(t, err)
	require.Equal(t, 1, told)
	require.Len(t, destroyed, 2)
	for _, file := range old {
		require.NoFileExists(t, file)
	}
	require.FileExists(t, young, "whoever has begun it may be at work")
	require.Len(t, examine(t.Context(), cfg).Regions[0].HalfMade, 1)
	destroyed, err = DestroyHalfMade(t.Context(), c.Client, HalfMadeOptions{Apart: time.Millisecond})
	require.NoError(t, err)
	require.Len(t, destroyed, 1)
	requireNothing()
	_, err = generate(t.Context(), c, key.KeyId, []byte("m"))
	require.NoError(t, err)
}

// Who does not wait for the minute destroys nothing.
func TestDestroyHalfMadeThatIsGivenUp(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	c := openClient(t, cfg)
	file := leave(t, tok, pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET)
	ctx, cancel := context.WithCancel(t.Context())
	var waits time.Duration
	destroyed, err := DestroyHalfMade(ctx, c.Client, HalfMadeOptions{Waiting: func(_ []ObjectReport, left time.Duration) {
		waits = left
		cancel()
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, destroyed)
	require.Equal(t, time.Minute, waits)
	require.FileExists(t, file)
}

// Who may not destroy objects may not destroy these either, and whose permission ends during the wait does not.
func TestDestroyHalfMadeAsksItsCaller(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	c := openClient(t, cfg)
	file := leave(t, tok, pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET)
	root := c.bridge.IAM().As(c.bridge.Root())
	name := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "Operator"}
	made, err := root.CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
	require.NoError(t, err)
	caller, err := c.bridge.Caller(t.Context(), made.ARN)
	require.NoError(t, err)
	requireDenied := func(o HalfMadeOptions) {
		t.Helper()
		o.Apart = time.Millisecond
		_, err := DestroyHalfMade(t.Context(), c.As(caller), o)
		var api smithy.APIError
		require.ErrorAs(t, err, &api)
		require.Equal(t, "AccessDeniedException", api.ErrorCode())
		require.FileExists(t, file)
	}
	requireDenied(HalfMadeOptions{})
	document := `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "pkcs11kms:DestroyObject", "Resource": "*"}}`
	require.NoError(t, root.PutPrincipalPolicy(t.Context(), name, "p", document))
	requireDenied(HalfMadeOptions{Waiting: func([]ObjectReport, time.Duration) {
		require.NoError(t, root.DeletePrincipalPolicy(t.Context(), name, "p"))
	}})
	require.NoError(t, root.PutPrincipalPolicy(t.Context(), name, "p", document))
	destroyed, err := DestroyHalfMade(t.Context(), c.As(caller), HalfMadeOptions{Apart: time.Millisecond})
	require.NoError(t, err)
	require.Len(t, destroyed, 1)
}

// On other tokens an object without a CKA_ID may be somebody's: it is told, and nothing else.
func TestObjectsWithoutACKAID(t *testing.T) {
	for _, maker := range []string{"SoftHSM%20project", "ACME"} {
		cfg, m := newVendorsConfig(t, "token manufacturer="+maker)
		c := openClient(t, cfg)
		module := pkcs11.New(m.Path)
		slots, err := module.GetSlotList(true)
		require.NoError(t, err)
		s, err := module.OpenSession(slotNamed(t, module, slots, c.token().Info().Label), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		require.NoError(t, err)
		_, err = module.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, nil)},
			[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
				pkcs11.NewAttribute(pkcs11.CKA_LABEL, "theirs")})
		require.NoError(t, err)
		require.NoError(t, module.CloseSession(s))
		r := examine(t.Context(), cfg)
		require.Empty(t, r.Regions[0].HalfMade)
		const text = `unknown CKO_SECRET_KEY "theirs": it has no CKA_ID, so that no record can want it; not ours, left alone`
		require.Equal(t, []Check{{"object", testRegion, StatusOK, text, ""}}, r.find("object", testRegion))
		destroyed, err := DestroyHalfMade(t.Context(), c.Client, HalfMadeOptions{Apart: time.Hour})
		require.NoError(t, err)
		require.Empty(t, destroyed)
		require.Len(t, examine(t.Context(), cfg).Regions[0].Unknown, 1)
	}
}

func slotNamed(t *testing.T, module *pkcs11.Ctx, slots []uint, label string) uint {
	t.Helper()
	for _, slot := range slots {
		info, err := module.GetTokenInfo(slot)
		require.NoError(t, err)
		if info.Label == label {
			return slot
		}
	}
	require.Fail(t, "no slot has the token")
	return 0
}
