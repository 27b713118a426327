package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"log/slog"
)

// Key is a signing key: good for one access key on one day in one region. It prints as a placeholder, so that it does not
// reach a log by accident.
type Key [sha256.Size]byte

// SigningKey derives the key that signs for date (yyyymmdd), region and service from a secret access key.
func SigningKey(secret, date, region, service string) Key {
	k := mac([]byte("AWS4"+secret), date)
	for _, element := range []string{region, service, terminator} {
		k = mac(k[:], element)
	}
	return k
}

func mac(key []byte, message string) (k Key) {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	h.Sum(k[:0])
	return k
}

const redacted = "[signing key]"

// Format writes the placeholder, whatever the verb.
func (Key) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(redacted)) }

// LogValue returns the placeholder.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns the placeholder: a signing key is not meant to be stored.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }
