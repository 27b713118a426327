package softhsm_test

import (
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

func TestURI(t *testing.T) {
	tok := softhsm.Token{Module: "/usr/lib/softhsm/libsofthsm2.so", Label: "kms", Serial: "0123456789abcdef"}
	assert.Equal(t, "pkcs11:token=kms;serial=0123456789abcdef?module-path=/usr/lib/softhsm/libsofthsm2.so", tok.URI(""))
	assert.Equal(t, "pkcs11:token=kms;serial=0123456789abcdef?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/kms/pin",
		tok.URI("/etc/kms/pin"))

	tok.Label, tok.Module = "a;b?c&d=%é /~", "/opt/my hsm/;&?#%.so"
	assert.Equal(t, "pkcs11:token=a%3Bb%3Fc%26d%3D%25%C3%A9%20%2F~;serial=0123456789abcdef"+
		"?module-path=/opt/my%20hsm/%3B%26%3F%23%25.so&pin-source=file:/pins/%7C%26%20", tok.URI("/pins/|& "))
}

func TestURIMakesPINFileAbsolute(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	t.Chdir(dir)
	assert.True(t, strings.HasSuffix(softhsm.Token{Label: "t"}.URI("pin"), "&pin-source=file:"+dir+"/pin"))
}

// grammar is RFC 7512 section 2.3 for the attributes that URI uses, without the characters that it need not escape.
var grammar = regexp.MustCompile(`^pkcs11:token=((?:[A-Za-z0-9._~-]|%[0-9A-F]{2})*);serial=((?:[A-Za-z0-9._~-]|%[0-9A-F]{2})*)` +
	`\?module-path=((?:[A-Za-z0-9._~/-]|%[0-9A-F]{2})*)&pin-source=file:((?:[A-Za-z0-9._~/-]|%[0-9A-F]{2})*)$`)

func FuzzURI(f *testing.F) {
	f.Add("kms", "00ff", "/usr/lib/softhsm/libsofthsm2.so", "/etc/pin")
	f.Add("a;b", "?&=", "/p%20/\x00\xff", "/;token=x")
	f.Fuzz(func(t *testing.T, label, serial, module, pinFile string) {
		pinFile = filepath.Clean("/" + pinFile)
		uri := softhsm.Token{Label: label, Serial: serial, Module: module}.URI(pinFile)
		parts := grammar.FindStringSubmatch(uri)
		require.NotNil(t, parts, "%q", uri)
		for i, want := range []string{label, serial, module, pinFile} {
			got, err := url.PathUnescape(parts[i+1])
			require.NoError(t, err)
			assert.Equal(t, want, got)
		}
	})
}

func TestEnv(t *testing.T) {
	assert.Equal(t, []string{"SOFTHSM2_CONF=/x/softhsm2.conf"}, softhsm.Token{ConfigFile: "/x/softhsm2.conf"}.Env())
}

func TestRandomPIN(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		pin := softhsm.RandomPIN()
		require.Regexp(t, `^[0-9a-f]{32}$`, pin)
		require.False(t, seen[pin], "a PIN came twice")
		seen[pin] = true
	}
}
