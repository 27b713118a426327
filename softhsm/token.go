package softhsm

import (
	"crypto/rand"
	"encoding/hex"
	"path/filepath"
	"strings"
)

// Token says where a token is. It holds no secret and may be copied, printed and used concurrently.
type Token struct {
	Module     string // path of the PKCS#11 module
	Label      string
	Serial     string // 16 hexadecimal digits
	ConfigFile string // the softhsm2.conf under which the module shows the token
}

// URI returns the token's PKCS#11 URI (RFC 7512) with token, serial and module-path, and with pin-source=file:pinFile
// unless pinFile is empty. A relative pinFile is made absolute.
func (t Token) URI(pinFile string) string {
	uri := "pkcs11:token=" + encode(t.Label, "") + ";serial=" + encode(t.Serial, "") +
		"?module-path=" + encode(t.Module, "/")
	if pinFile == "" {
		return uri
	}
	if abs, err := filepath.Abs(pinFile); err == nil {
		pinFile = abs
	}
	return uri + "&pin-source=file:" + encode(pinFile, "/")
}

// Env returns the environment entry by which a child process sees the token, for appending to [os/exec.Cmd.Env].
func (t Token) Env() []string {
	return []string{EnvConfig + "=" + t.ConfigFile}
}

// RandomPIN returns a new PIN of 32 hexadecimal digits: 128 bits that any token, shell and file takes.
func RandomPIN() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(b[:])
}

// encode percent-encodes everything but RFC 3986's unreserved characters and those in keep, which is stricter than RFC
// 7512 asks for and read by every parser.
func encode(s, keep string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		if unreserved(c) || strings.IndexByte(keep, c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
