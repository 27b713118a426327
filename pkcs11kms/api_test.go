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
)

// api is cut from *kms.Client: what an application that uses this service may ask for.
type api interface {
	CreateKey(context.Context, *kms.CreateKeyInput, ...func(*kms.Options)) (*kms.CreateKeyOutput, error)
	DescribeKey(context.Context, *kms.DescribeKeyInput, ...func(*kms.Options)) (*kms.DescribeKeyOutput, error)
	DisableKey(context.Context, *kms.DisableKeyInput, ...func(*kms.Options)) (*kms.DisableKeyOutput, error)
	EnableKey(context.Context, *kms.EnableKeyInput, ...func(*kms.Options)) (*kms.EnableKeyOutput, error)
	GenerateMac(context.Context, *kms.GenerateMacInput, ...func(*kms.Options)) (*kms.GenerateMacOutput, error)
	ListKeys(context.Context, *kms.ListKeysInput, ...func(*kms.Options)) (*kms.ListKeysOutput, error)
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
	requireAPIError(t, err, "ValidationException", "Region eu-central-1 is not configured.")
}

// apiMethods is the number of operations that there are.
func apiMethods() int { return reflect.TypeFor[api]().NumMethod() }
