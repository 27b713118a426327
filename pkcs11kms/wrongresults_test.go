package pkcs11kms

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// A result that is not what the function promises is the device's fault, asked for again where that is safe, and never passed on. The
// cases are those of the table of return values, with other rules.
func TestWrongResults(t *testing.T) {
	const (
		success, key, service = "success", "KeyUnavailableException", "DependencyTimeoutException"
		mac, sign             = "GenerateMac", "Sign"
		secret, pair          = "CreateKey HMAC_256", "CreateKey ECC_NIST_P256"
	)
	f := newCodeFixture(t)
	for _, c := range []struct{ operation, function, wrong, once, always string }{
		{mac, "C_Sign", "short 1", success, key},
		{mac, "C_Sign", "short 32", success, key},
		{mac, "C_Sign", "long 1", success, key},
		{mac, "C_Sign", "value 00", success, key},
		{mac, "C_GetAttributeValue", "value 00 attribute=CKA_ID", success, key},
		{mac, "C_GetAttributeValue", "short 8 attribute=CKA_CLASS", success, key},
		{mac, "C_FindObjects", "empty", key, key}, // a search takes long where there are many keys, so it is left to who asks
		{mac, "C_FindObjects", "twice", success, key},
		{sign, "C_Sign", "short 1", success, key},
		{sign, "C_Sign", "long 1", success, key},
		{sign, "C_GetAttributeValue", "short 1 attribute=CKA_ID", success, key},
		{pair, "C_Sign", "flip", service, "UnsupportedOperationException"}, // a pair whose signatures are wrong is none that is made
		{pair, "C_Sign", "short 1", service, service},
		{pair, "C_GetAttributeValue", "value 00 attribute=CKA_EC_PARAMS", service, service},
		{pair, "C_GetAttributeValue", "short 1 attribute=CKA_EC_POINT", service, service},
		{secret, "C_FindObjects", "twice", success, success}, // nothing is looked for but the index
	} {
		for mode, want := range map[string]string{"once": c.once, "always": c.always} {
			t.Run(c.operation+", "+c.function+" "+c.wrong+", "+mode, func(t *testing.T) {
				f.t, f.m.Process = t, *f.m.With(t)
				answer, _ := f.playRule(codeCase{c.operation, c.function, c.wrong, mode}, c.function+" "+c.wrong+" "+codeModes[mode])
				assert.Equal(t, want, answer)
			})
		}
	}
}
