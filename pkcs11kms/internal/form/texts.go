package form

import (
	"regexp"
	"strings"
)

// TagCharacters are what the tags of keys, users and roles are made of (general rules of AWS for tags).
const TagCharacters = `[\p{L}\p{Z}\p{N}_.:/=+\-@]`

// TagText is any text of TagCharacters, the empty one included.
var TagText = regexp.MustCompile(`^` + TagCharacters + `*$`)

// PolicyText is the constraint of the API models on policy documents.
var PolicyText = regexp.MustCompile(`^[\x{0009}\x{000A}\x{000D}\x{0020}-\x{00FF}]+$`)

// ReservedTag tells whether a tag key is one of those that AWS keeps to itself, in whatever case.
func ReservedTag(key string) bool {
	const prefix = "aws:"
	return len(key) >= len(prefix) && strings.EqualFold(key[:len(prefix)], prefix)
}
