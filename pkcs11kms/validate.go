package pkcs11kms

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// violations collects what the constraints of the API model find wrong with one request, in the wording of the real
// service. Paths are the member names in lowerCamel. Blobs, policies and tokens are never echoed.
type violations []string

// maxViolations bounds what one answer lists: a list of many thousand wrong elements must not make an answer of that size.
const maxViolations = 50

func (v *violations) add(value, path, constraint string) {
	if len(*v) == maxViolations {
		return
	}
	if value != "" {
		value += " "
	}
	*v = append(*v, fmt.Sprintf("Value %sat '%s' failed to satisfy constraint: Member must %s", value, path, constraint))
}

func quote(s string) string { return "'" + s + "'" }

// err returns the ValidationException that names all of them, or nil.
func (v violations) err() error {
	if len(v) == 0 {
		return nil
	}
	return validationError(v.String())
}

// iamErr is err with the code of AWS IAM.
func (v violations) iamErr() error {
	if len(v) == 0 {
		return nil
	}
	return iamError(iamValidation, "%s", v)
}

func (v violations) String() string {
	plural := ""
	if len(v) > 1 {
		plural = "s"
	}
	return fmt.Sprintf("%d validation error%s detected: %s", len(v), plural, strings.Join(v, "; "))
}

// text checks an optional string: its length in UTF-16 units, as the real service counts, and its pattern.
func (v *violations) text(path string, s *string, least, most int, pattern *regexp.Regexp) {
	if s != nil {
		v.characters(quote(*s), path, *s, least, most, pattern)
	}
}

// hidden is text for members whose value is not echoed.
func (v *violations) hidden(path string, s *string, least, most int, pattern *regexp.Regexp) {
	if s != nil {
		v.characters("", path, *s, least, most, pattern)
	}
}

func (v *violations) characters(echo, path, s string, least, most int, pattern *regexp.Regexp) {
	v.lengthOf(echo, path, utf16Len(s), least, most)
	if !utf8.ValidString(s) {
		v.add("", path, "be valid UTF-8")
	} else if pattern != nil && !pattern.MatchString(s) {
		v.add(echo, path, "satisfy regular expression pattern: "+pattern.String())
	}
}

func (v *violations) lengthOf(value, path string, n, least, most int) {
	if n < least {
		v.add(value, path, fmt.Sprintf("have length greater than or equal to %d", least))
	}
	if n > most {
		v.add(value, path, fmt.Sprintf("have length less than or equal to %d", most))
	}
}

// blob checks a required byte string.
func (v *violations) blob(path string, b []byte, least, most int) {
	if b == nil {
		v.add("null", path, "not be null")
		return
	}
	v.lengthOf("", path, len(b), least, most)
}

func (v *violations) number(path string, n *int32, least, most int32) {
	switch {
	case n == nil:
	case *n < least:
		v.add(quote(fmt.Sprint(*n)), path, fmt.Sprintf("have value greater than or equal to %d", least))
	case *n > most:
		v.add(quote(fmt.Sprint(*n)), path, fmt.Sprintf("have value less than or equal to %d", most))
	}
}

// enum checks an optional member of an enumerated type; the SDK's empty value is an absent one.
func enum[T ~string](v *violations, path string, value T, values []T) {
	if value == "" || slices.Contains(values, value) {
		return
	}
	names := make([]string, len(values))
	for i, name := range values {
		names[i] = string(name)
	}
	v.add(quote(string(value)), path, "satisfy enum value set: ["+strings.Join(names, ", ")+"]")
}

// requiredEnum is enum for a member that must be there.
func requiredEnum[T ~string](v *violations, path string, value T, values []T) {
	if value == "" {
		v.add("null", path, "not be null")
		return
	}
	enum(v, path, value, values)
}

func (v *violations) keyID(id *string) {
	if id == nil {
		v.add("null", "keyId", "not be null")
		return
	}
	v.text("keyId", id, 1, 2048, nil)
}

func (v *violations) grantTokens(tokens []string) {
	v.lengthOf("", "grantTokens", len(tokens), 0, 10)
	for i := range tokens {
		v.hidden(fmt.Sprintf("grantTokens.%d.member", i+1), &tokens[i], 1, 8192, nil)
	}
}

var markerPattern = regexp.MustCompile(`^[\x{0020}-\x{00FF}]*$`)

func (v *violations) page(limit *int32, marker *string) {
	v.number("limit", limit, 1, 1000)
	v.text("marker", marker, 1, 1024, markerPattern)
}

func (v *violations) macMembers(message []byte, keyID *string, algorithm types.MacAlgorithmSpec) {
	v.blob("message", message, 1, 4096)
	v.keyID(keyID)
	requiredEnum(v, "macAlgorithm", algorithm, algorithm.Values())
}

func utf16Len(s string) int {
	n := 0
	for _, r := range s {
		n += max(1, utf16.RuneLen(r))
	}
	return n
}
