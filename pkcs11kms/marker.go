package pkcs11kms

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
)

// marker is the place where a list goes on: after one ID of one operation's list. It holds no secret and grants
// nothing; the checksum is there to tell damage from a place.
type marker struct {
	Op      string
	Region  string
	Account string
	Filter  string
	After   string
}

const markerSum = 8 // bytes of SHA-256 in front of the value

func (m marker) String() string {
	value, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings always encode
	}
	sum := sha256.Sum256(value)
	return base64.RawURLEncoding.EncodeToString(append(sum[:markerSum:markerSum], value...))
}

// parseMarker reads a marker that String made for the same list, or returns InvalidMarkerException.
func parseMarker(text string, want marker) (marker, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) <= markerSum {
		return marker{}, apierr.InvalidMarker()
	}
	sum := sha256.Sum256(raw[markerSum:])
	var m marker
	if subtle.ConstantTimeCompare(sum[:markerSum], raw[:markerSum]) != 1 || json.Unmarshal(raw[markerSum:], &m) != nil {
		return marker{}, apierr.InvalidMarker()
	}
	if m.Op != want.Op || m.Region != want.Region || m.Account != want.Account || m.Filter != want.Filter || m.After == "" {
		return marker{}, apierr.InvalidMarker()
	}
	return m, nil
}
