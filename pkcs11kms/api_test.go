package pkcs11kms

import (
	"context"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// api is cut from *kms.Client: what an application that uses this service may ask for.
type api interface {
	CancelKeyDeletion(context.Context, *kms.CancelKeyDeletionInput, ...func(*kms.Options)) (*kms.CancelKeyDeletionOutput, error)
	CreateAlias(context.Context, *kms.CreateAliasInput, ...func(*kms.Options)) (*kms.CreateAliasOutput, error)
	CreateGrant(context.Context, *kms.CreateGrantInput, ...func(*kms.Options)) (*kms.CreateGrantOutput, error)
	CreateKey(context.Context, *kms.CreateKeyInput, ...func(*kms.Options)) (*kms.CreateKeyOutput, error)
	Decapsulate(context.Context, *kms.DecapsulateInput, ...func(*kms.Options)) (*kms.DecapsulateOutput, error)
	Decrypt(context.Context, *kms.DecryptInput, ...func(*kms.Options)) (*kms.DecryptOutput, error)
	DeleteAlias(context.Context, *kms.DeleteAliasInput, ...func(*kms.Options)) (*kms.DeleteAliasOutput, error)
	DeleteImportedKeyMaterial(context.Context, *kms.DeleteImportedKeyMaterialInput,
		...func(*kms.Options)) (*kms.DeleteImportedKeyMaterialOutput, error)
	DeriveSharedSecret(context.Context, *kms.DeriveSharedSecretInput, ...func(*kms.Options)) (*kms.DeriveSharedSecretOutput, error)
	DescribeKey(context.Context, *kms.DescribeKeyInput, ...func(*kms.Options)) (*kms.DescribeKeyOutput, error)
	DisableKey(context.Context, *kms.DisableKeyInput, ...func(*kms.Options)) (*kms.DisableKeyOutput, error)
	DisableKeyRotation(context.Context, *kms.DisableKeyRotationInput, ...func(*kms.Options)) (*kms.DisableKeyRotationOutput, error)
	EnableKey(context.Context, *kms.EnableKeyInput, ...func(*kms.Options)) (*kms.EnableKeyOutput, error)
	EnableKeyRotation(context.Context, *kms.EnableKeyRotationInput, ...func(*kms.Options)) (*kms.EnableKeyRotationOutput, error)
	Encapsulate(context.Context, *kms.EncapsulateInput, ...func(*kms.Options)) (*kms.EncapsulateOutput, error)
	Encrypt(context.Context, *kms.EncryptInput, ...func(*kms.Options)) (*kms.EncryptOutput, error)
	GenerateDataKey(context.Context, *kms.GenerateDataKeyInput, ...func(*kms.Options)) (*kms.GenerateDataKeyOutput, error)
	GenerateDataKeyPair(context.Context, *kms.GenerateDataKeyPairInput, ...func(*kms.Options)) (*kms.GenerateDataKeyPairOutput, error)
	GenerateDataKeyPairWithoutPlaintext(context.Context, *kms.GenerateDataKeyPairWithoutPlaintextInput,
		...func(*kms.Options)) (*kms.GenerateDataKeyPairWithoutPlaintextOutput, error)
	GenerateDataKeyWithoutPlaintext(context.Context, *kms.GenerateDataKeyWithoutPlaintextInput,
		...func(*kms.Options)) (*kms.GenerateDataKeyWithoutPlaintextOutput, error)
	GenerateMac(context.Context, *kms.GenerateMacInput, ...func(*kms.Options)) (*kms.GenerateMacOutput, error)
	GenerateRandom(context.Context, *kms.GenerateRandomInput, ...func(*kms.Options)) (*kms.GenerateRandomOutput, error)
	GetKeyPolicy(context.Context, *kms.GetKeyPolicyInput, ...func(*kms.Options)) (*kms.GetKeyPolicyOutput, error)
	GetKeyRotationStatus(context.Context, *kms.GetKeyRotationStatusInput, ...func(*kms.Options)) (*kms.GetKeyRotationStatusOutput, error)
	GetParametersForImport(context.Context, *kms.GetParametersForImportInput, ...func(*kms.Options)) (*kms.GetParametersForImportOutput, error)
	GetPublicKey(context.Context, *kms.GetPublicKeyInput, ...func(*kms.Options)) (*kms.GetPublicKeyOutput, error)
	ImportKeyMaterial(context.Context, *kms.ImportKeyMaterialInput, ...func(*kms.Options)) (*kms.ImportKeyMaterialOutput, error)
	ListAliases(context.Context, *kms.ListAliasesInput, ...func(*kms.Options)) (*kms.ListAliasesOutput, error)
	ListGrants(context.Context, *kms.ListGrantsInput, ...func(*kms.Options)) (*kms.ListGrantsOutput, error)
	ListKeyPolicies(context.Context, *kms.ListKeyPoliciesInput, ...func(*kms.Options)) (*kms.ListKeyPoliciesOutput, error)
	ListKeyRotations(context.Context, *kms.ListKeyRotationsInput, ...func(*kms.Options)) (*kms.ListKeyRotationsOutput, error)
	ListKeys(context.Context, *kms.ListKeysInput, ...func(*kms.Options)) (*kms.ListKeysOutput, error)
	ListResourceTags(context.Context, *kms.ListResourceTagsInput, ...func(*kms.Options)) (*kms.ListResourceTagsOutput, error)
	ListRetirableGrants(context.Context, *kms.ListRetirableGrantsInput, ...func(*kms.Options)) (*kms.ListRetirableGrantsOutput, error)
	PutKeyPolicy(context.Context, *kms.PutKeyPolicyInput, ...func(*kms.Options)) (*kms.PutKeyPolicyOutput, error)
	ReEncrypt(context.Context, *kms.ReEncryptInput, ...func(*kms.Options)) (*kms.ReEncryptOutput, error)
	RetireGrant(context.Context, *kms.RetireGrantInput, ...func(*kms.Options)) (*kms.RetireGrantOutput, error)
	RevokeGrant(context.Context, *kms.RevokeGrantInput, ...func(*kms.Options)) (*kms.RevokeGrantOutput, error)
	RotateKeyOnDemand(context.Context, *kms.RotateKeyOnDemandInput, ...func(*kms.Options)) (*kms.RotateKeyOnDemandOutput, error)
	ScheduleKeyDeletion(context.Context, *kms.ScheduleKeyDeletionInput, ...func(*kms.Options)) (*kms.ScheduleKeyDeletionOutput, error)
	Sign(context.Context, *kms.SignInput, ...func(*kms.Options)) (*kms.SignOutput, error)
	TagResource(context.Context, *kms.TagResourceInput, ...func(*kms.Options)) (*kms.TagResourceOutput, error)
	UntagResource(context.Context, *kms.UntagResourceInput, ...func(*kms.Options)) (*kms.UntagResourceOutput, error)
	UpdateAlias(context.Context, *kms.UpdateAliasInput, ...func(*kms.Options)) (*kms.UpdateAliasOutput, error)
	UpdateKeyDescription(context.Context, *kms.UpdateKeyDescriptionInput, ...func(*kms.Options)) (*kms.UpdateKeyDescriptionOutput, error)
	Verify(context.Context, *kms.VerifyInput, ...func(*kms.Options)) (*kms.VerifyOutput, error)
	VerifyMac(context.Context, *kms.VerifyMacInput, ...func(*kms.Options)) (*kms.VerifyMacOutput, error)
}

var (
	_ api = (*kms.Client)(nil)
	_ api = (*Client)(nil)
)

// Every method of *kms.Client is implemented, with the very same type, or stands in DIVERGENCES.md with a reason.
func TestEveryMethodIsImplementedOrListed(t *testing.T) {
	text, err := os.ReadFile("DIVERGENCES.md")
	require.NoError(t, err)
	_, list, ok := strings.Cut(string(text), "## Operations that are not here")
	require.True(t, ok)
	listed := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([A-Z]\w+) \| (.+) \|$`).FindAllStringSubmatch(list, -1) {
		listed[row[1]] = row[2]
	}
	theirs, ours := reflect.TypeFor[*kms.Client](), reflect.TypeFor[*Client]()
	for i := range theirs.NumMethod() {
		method := theirs.Method(i)
		reason, refused := listed[method.Name]
		delete(listed, method.Name)
		mine, implemented := ours.MethodByName(method.Name)
		switch {
		case implemented && refused:
			t.Errorf("%s is implemented, but listed as not here", method.Name)
		case implemented:
			assert.Equal(t, signature(method.Type), signature(mine.Type), method.Name)
		case !refused || strings.TrimSpace(reason) == "":
			t.Errorf("%s is neither implemented nor listed with a reason", method.Name)
		}
	}
	assert.Empty(t, listed, "listed, but no method of *kms.Client")
}

// The table of operations has a row for each operation of the SDK, and says of each what Client and DIVERGENCES.md say. A row
// that is added to the table shows here what is still missing.
func TestTheTableOfOperationsIsImplemented(t *testing.T) {
	text, err := os.ReadFile("DIVERGENCES.md")
	require.NoError(t, err)
	_, list, ok := strings.Cut(string(text), "## Operations that are not here")
	require.True(t, ok)
	rows := map[string]bool{}
	for op := range ops.All {
		if op.Answer == ops.ActionOnly || op.Service != kmsService {
			continue
		}
		rows[op.Name] = true
		_, modelled := reflect.TypeFor[*kms.Client]().MethodByName(op.Name)
		assert.True(t, modelled, "%s is no operation of the SDK", op.Name)
		_, ok := form.Members(op.Name)
		assert.True(t, ok, "%s: its input has no constraints in internal/form", op.Name)
		_, implemented := reflect.TypeFor[*Client]().MethodByName(op.Name)
		assert.Equal(t, op.Answer != ops.NotSupported, implemented, "%s is a method of Client", op.Name)
		listed := strings.Contains(list, "\n| "+op.Name+" | ")
		assert.Equal(t, op.Answer == ops.NotSupported, listed, "%s is listed in DIVERGENCES.md as not here", op.Name)
		assert.Same(t, op, ops.Find(op.Service, op.Name), "%s has one row", op.Name)
	}
	for method := range reflect.TypeFor[*kms.Client]().Methods() {
		if method.Name != "Options" {
			assert.True(t, rows[method.Name], "%s has no row", method.Name)
		}
	}
}

// signature is a method's type without its receiver.
func signature(method reflect.Type) string {
	var parts []string
	for i := 1; i < method.NumIn(); i++ {
		parts = append(parts, method.In(i).String())
	}
	for i := range method.NumOut() {
		parts = append(parts, method.Out(i).String())
	}
	return strings.Join(parts, " ")
}

// Option functions of the SDK: the region counts.
func TestOptionsRegion(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	in := &kms.DescribeKeyInput{KeyId: key.KeyId}
	_, err := c.DescribeKey(t.Context(), in, func(o *kms.Options) { o.Region = testRegion })
	require.NoError(t, err)
	_, err = c.DescribeKey(t.Context(), in, func(o *kms.Options) { o.Region = "eu-central-1" })
	requireAPIError(t, err, "ValidationException", "Region eu-central-1 is not configured. Configured: us-west-2.")
}
