package sigv4_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSigningKey derives the key that AWS's documentation derives as an example.
func TestSigningKey(t *testing.T) {
	key := sigv4.SigningKey(secret, "20120215", "us-east-1", "iam")
	assert.Equal(t, "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d", hex.EncodeToString(key[:]))
}

func TestKeyIsNotPrinted(t *testing.T) {
	key := sigv4.SigningKey(secret, "20120215", "us-east-1", "iam")
	holder := struct{ Key sigv4.Key }{key}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("derived", "key", key, "holder", holder)
	slog.New(slog.NewTextHandler(&log, nil)).Info("derived", "key", key, "holder", holder)
	text, err := json.Marshal(holder)
	require.NoError(t, err)
	log.Write(text)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		shown := fmt.Sprintf(verb+" "+verb+" "+verb+"\n", key, &key, holder)
		assert.Equal(t, 3, strings.Count(shown, "[signing key]"), "%s: %s", verb, shown)
		log.WriteString(shown)
	}
	assert.NotContains(t, log.String(), string(key[:4]))
	assert.NotContains(t, log.String(), fmt.Sprintf("%x", key[:4]))
	assert.NotContains(t, log.String(), fmt.Sprintf("%X", key[:4]))
	assert.NotContains(t, log.String(), fmt.Sprintf("%d %d", key[0], key[1]))
	assert.NotContains(t, log.String(), fmt.Sprintf("%d,%d", key[0], key[1]))
	assert.Equal(t, 5+3*8, strings.Count(log.String(), "[signing key]"), "wherever the key would stand")
}
