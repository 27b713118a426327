package token_test

import (
	"strings"
	"testing"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseURI(t *testing.T) {
	const module = "?module-path=/usr/lib/m.so"
	for in, want := range map[string]token.URI{
		"pkcs11:" + module:                  {ModulePath: "/usr/lib/m.so"},
		"PKCS11:token=kms" + module:         {Token: "kms", ModulePath: "/usr/lib/m.so"},
		"pkcs11:token=my%20token" + module:  {Token: "my token", ModulePath: "/usr/lib/m.so"},
		"pkcs11:token=blank%20%20" + module: {Token: "blank", ModulePath: "/usr/lib/m.so"},
		"pkcs11:token=a&b" + module:         {Token: "a&b", ModulePath: "/usr/lib/m.so"},
		"pkcs11:token=%c3%A4%3B%3f%25;serial=0a;manufacturer=M+1;model=x" + module: {
			Token: "ä;?%", Serial: "0a", Manufacturer: "M+1", Model: "x", ModulePath: "/usr/lib/m.so"},
		"pkcs11:?module-path=/a?b/c|d.so":                                  {ModulePath: "/a?b/c|d.so"},
		"pkcs11:token=k" + module + "&pin-source=file:/etc/pin":            {Token: "k", ModulePath: "/usr/lib/m.so", PINFile: "/etc/pin"},
		"pkcs11:token=k" + module + "&pin-source=file:///etc/pin":          {Token: "k", ModulePath: "/usr/lib/m.so", PINFile: "/etc/pin"},
		"pkcs11:token=k" + module + "&pin-source=file://localhost/etc/pin": {Token: "k", ModulePath: "/usr/lib/m.so", PINFile: "/etc/pin"},
		"pkcs11:token=k" + module + "&pin-source=file:/etc/pin&pin-exact=true": {
			Token: "k", ModulePath: "/usr/lib/m.so", PINFile: "/etc/pin", PINExact: true},
		"pkcs11:token=k?pin-source=file:%2Fetc%2Fa%20pin&module-path=%2Fm.so": {Token: "k", ModulePath: "/m.so", PINFile: "/etc/a pin"},
	} {
		got, err := token.ParseURI(in)
		if assert.NoError(t, err, in) {
			assert.Equal(t, want, got, in)
			again, err := token.ParseURI(got.String())
			require.NoError(t, err, got.String())
			assert.Equal(t, got, again, "String is read back")
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	const module = "?module-path=/usr/lib/m.so"
	for in, says := range map[string]string{
		"":                                                    "does not begin",
		"pkcs11":                                              "does not begin",
		"http://example.com":                                  "does not begin",
		"pkcs11:token=k":                                      "module-path is missing",
		"pkcs11:token=k?":                                     "module-path is missing",
		"pkcs11:token=k?module-path=m.so":                     "not absolute",
		"pkcs11:token=k?module-path=":                         "empty",
		"pkcs11:token=" + module:                              "empty",
		"pkcs11:token=%20" + module:                           "blank",
		"pkcs11:token" + module:                               "name=value",
		"pkcs11:token=a;" + module:                            "name=value",
		"pkcs11:token=a;token=b" + module:                     "twice",
		"pkcs11:token=a b" + module:                           "percent-encoded",
		"pkcs11:token=a/b" + module:                           "percent-encoded",
		"pkcs11:token=ä" + module:                             "percent-encoded",
		"pkcs11:token=a\x00" + module:                         "percent-encoded",
		"pkcs11:token=a%00" + module:                          "UTF-8",
		"pkcs11:token=%ff" + module:                           "UTF-8",
		"pkcs11:token=%4" + module:                            "hexadecimal",
		"pkcs11:token=%" + module:                             "hexadecimal",
		"pkcs11:token=%zz" + module:                           "hexadecimal",
		"pkcs11:serial=12345678901234567" + module:            "longer than 16",
		"pkcs11:token=" + strings.Repeat("x", 33) + module:    "longer than 32",
		"pkcs11:slot-id=1" + module:                           `"slot-id" is refused`,
		"pkcs11:object=key" + module:                          `"object" is refused`,
		"pkcs11:module-path=/m.so":                            "wrong side",
		"pkcs11:" + module + "&token=k":                       "wrong side",
		"pkcs11:x-vendor=1" + module:                          "not known",
		"pkcs11:Token=a" + module:                             "not known",
		"pkcs11:" + module + "&module-name=m":                 `"module-name" is refused`,
		"pkcs11:" + module + "&pin-value=1234":                `"pin-value" is refused`,
		"pkcs11:" + module + "&pin-source=|cat%20/pin":        "command",
		"pkcs11:" + module + "&pin-source=/etc/pin":           "file:",
		"pkcs11:" + module + "&pin-source=file:pin":           "absolute",
		"pkcs11:" + module + "&pin-source=file://h/pin":       "absolute",
		"pkcs11:" + module + "&pin-source=file:////pin":       "absolute",
		"pkcs11:" + module + "&pin-source=https://h/pin":      "file:",
		"pkcs11:" + module + "&pin-exact=yes":                 "pin-exact is not true",
		"pkcs11:" + module + "&pin-exact=":                    "empty",
		"pkcs11:" + module + "&pin-exact=true&pin-exact=true": "twice",
		"pkcs11:pin-exact=true" + module:                      "wrong side",
		"pkcs11:" + module + "&":                              "name=value",
	} {
		_, err := token.ParseURI(in)
		var e *token.OpenError
		if !assert.ErrorAs(t, err, &e, in) {
			continue
		}
		assert.Equal(t, token.BadURI, e.Reason)
		assert.NotEmpty(t, e.Hint(), in)
		assert.Contains(t, e.Error(), says, in)
	}
}

func TestRefusedURIKeepsThePINToItself(t *testing.T) {
	for _, in := range []string{
		"pkcs11:token=k?module-path=/m.so&pin-value=geheim",
		"pkcs11:token=k;pin-value=geheim?module-path=/m.so",
		"pkcs11:token=k?module-path=/m.so&pin-source=geheim",
		"pkcs11:token=k?module-path=/m.so&pin-source=|echo%20geheim",
		"pkcs11:token=k?module-path=/m.so&pin-source=file:geheim",
	} {
		_, err := token.ParseURI(in)
		var e *token.OpenError
		require.ErrorAs(t, err, &e)
		assert.NotContains(t, e.Error()+e.Hint(), "geheim")
	}
}

func FuzzParseURI(f *testing.F) {
	for _, seed := range []string{
		"pkcs11:token=kms;serial=0a1b?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/pin&pin-exact=true",
		"pkcs11:manufacturer=A%20B;model=m?pin-source=file:///p&module-path=/m", "pkcs11:?module-path=/m.so", "pkcs11:slot-id=0",
		"pkcs11:token=%25%3b?module-path=%2f", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		u, err := token.ParseURI(in)
		if err != nil {
			var e *token.OpenError
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Hint())
			return
		}
		require.True(t, strings.HasPrefix(u.ModulePath, "/"))
		again, err := token.ParseURI(u.String())
		require.NoError(t, err)
		require.Equal(t, u, again)
	})
}
