package clients

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// confidential are the members of inputs and outputs that nobody may read in the audit log, and the fewest bytes of which a value of
// theirs is looked for: a shorter one is in every log by chance.
var confidential = []string{"Message", "Mac", "Signature", "Plaintext", "GrantTokens"}

const fewest = 6

// unwritten are the secrets that the clients of one server have sent and been given. Safe for concurrent use.
type unwritten struct {
	mu     sync.Mutex // guards values
	values map[string]string
}

// secretsOf has what is noted for each server, by its URL.
var secretsOf sync.Map

// newServer is kmstest.NewServer with an audit log in files. When the test ends, no message, MAC, signature, grant token or secret of an
// access key that went through client.do is in it, in none of the forms that a log could write it in.
func newServer(t *testing.T, options ...kmstest.Option) *kmstest.Server {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "audit")
	log, err := audit.Open(dir, audit.Options{})
	require.NoError(t, err)
	noted := &unwritten{values: map[string]string{}}
	t.Cleanup(func() {
		require.NoError(t, log.Close())
		noted.requireUnwritten(t, dir)
	})
	srv := kmstest.NewServer(t, append(options, kmstest.Configure(func(cfg *pkcs11kms.Config) { cfg.Audit = log }))...)
	noted.add("secret of the root's access key", []byte(srv.SecretAccessKey()))
	secretsOf.Store(srv.URL, noted)
	return srv
}

// note keeps what is confidential in an input or an output.
func (u *unwritten) note(operation string, m members) {
	for _, name := range confidential {
		if texts, ok := m[name].([]any); ok {
			for _, text := range texts {
				u.addText(operation+" "+name, text)
			}
		}
		u.addText(operation+" "+name, m[name])
	}
}

func (u *unwritten) addText(what string, value any) {
	text, ok := value.(string)
	if !ok {
		return
	}
	if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
		u.add(what, raw)
		return
	}
	u.add(what, []byte(text))
}

func (u *unwritten) add(what string, secret []byte) {
	if len(bytes.Trim(secret, "\x00")) < fewest {
		return // zeros, of which base64 makes what is in other texts too
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.values[string(secret)] = what
}

// requireUnwritten looks for every secret in all of the log. What failed names the kind of secret alone.
func (u *unwritten) requireUnwritten(t *testing.T, dir string) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	lines := 0
	require.NoError(t, audit.Scan(dir, func(line []byte) error {
		lines++
		for secret, what := range u.values {
			for form, text := range formsOf([]byte(secret)) {
				assert.False(t, bytes.Contains(line, text), "a record has the %s, %s", what, form)
			}
		}
		return nil
	}))
	assert.NotZero(t, lines, "the log has no record at all")
}

// formsOf are the texts that a log could have in a secret's place.
func formsOf(secret []byte) map[string][]byte {
	numbers := strings.Trim(fmt.Sprint(secret), "[]")
	unpadded := base64.RawStdEncoding.EncodeToString(secret)
	return map[string][]byte{
		"as it is":                  secret,
		"in base64":                 []byte(unpadded[:len(unpadded)-1]), // whose last character says what follows as well
		"in base64 for URLs":        []byte(base64.RawURLEncoding.EncodeToString(secret)[:len(unpadded)-1]),
		"in hexadecimal":            []byte(hex.EncodeToString(secret)),
		"in upper-case hexadecimal": bytes.ToUpper([]byte(hex.EncodeToString(secret))),
		"as numbers":                []byte(numbers),
		"as numbers of JSON":        []byte(strings.ReplaceAll(numbers, " ", ",")),
	}
}
