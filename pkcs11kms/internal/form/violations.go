package form

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/aws/smithy-go"
)

// Violations collects what is wrong with one input, in the wording of the real service. Paths are the member names in
// lowerCamel, such as tags.1.member.tagKey.
type Violations []string

// maxViolations bounds what one answer lists: a list of many thousand wrong elements must not make an answer of that size.
const maxViolations = 50

// Add notes that the member at the path breaks a constraint. value is what the error shows of it: quoted, null, or nothing.
func (v *Violations) Add(value, path, constraint string) {
	if len(*v) == maxViolations {
		return
	}
	if value != "" {
		value += " "
	}
	*v = append(*v, fmt.Sprintf("Value %sat '%s' failed to satisfy constraint: Member must %s", value, path, constraint))
}

// Null notes that a required member is missing.
func (v *Violations) Null(path string) { v.Add("null", path, "not be null") }

func quote(s string) string { return "'" + s + "'" }

// Err returns the ValidationException that names all of them, or nil.
func (v Violations) Err() error {
	if len(v) == 0 {
		return nil
	}
	return &smithy.GenericAPIError{Code: "ValidationException", Message: v.String(), Fault: smithy.FaultClient}
}

func (v Violations) String() string {
	plural := ""
	if len(v) > 1 {
		plural = "s"
	}
	return fmt.Sprintf("%d validation error%s detected: %s", len(v), plural, strings.Join(v, "; "))
}

// text is a string with its place. A hidden one is not shown.
type text struct {
	path, value string
	hidden      bool
}

func (t text) shown() string {
	if t.hidden {
		return ""
	}
	return quote(t.value)
}

// Text checks a string: its length in UTF-16 units, as the real service counts, and its pattern unless that is nil.
func (v *Violations) Text(path, s string, least, most int, pattern *regexp.Regexp) {
	v.text(text{path, s, false}, least, most, pattern, "")
}

// Hidden is Text for members whose value is not shown.
func (v *Violations) Hidden(path, s string, least, most int, pattern *regexp.Regexp) {
	v.text(text{path, s, true}, least, most, pattern, "")
}

// text checks a string. model is the pattern as the error shows it, where that is not the expression itself.
func (v *Violations) text(t text, least, most int, pattern *regexp.Regexp, model string) {
	// There are at most as many units as bytes, so most texts need no counting.
	if n := len(t.value); n < least || least > 1 || n > most {
		v.length(t, utf16Len(t.value), least, most)
	}
	switch {
	case !utf8.ValidString(t.value):
		v.Add("", t.path, "be valid UTF-8")
	case pattern != nil && !pattern.MatchString(t.value):
		v.Add(t.shown(), t.path, "satisfy regular expression pattern: "+cmp.Or(model, pattern.String()))
	}
}

// Length checks the length of what is not shown: a blob or a list.
func (v *Violations) Length(path string, n, least, most int) {
	v.length(text{path: path, hidden: true}, n, least, most)
}

func (v *Violations) length(t text, n, least, most int) {
	if n < least {
		v.Add(t.shown(), t.path, fmt.Sprintf("have length greater than or equal to %d", least))
	}
	if n > most {
		v.Add(t.shown(), t.path, fmt.Sprintf("have length less than or equal to %d", most))
	}
}

func (v *Violations) number(path string, n int64, least, most int) {
	switch {
	case n < int64(least):
		v.Add(quote(fmt.Sprint(n)), path, fmt.Sprintf("have value greater than or equal to %d", least))
	case n > int64(most):
		v.Add(quote(fmt.Sprint(n)), path, fmt.Sprintf("have value less than or equal to %d", most))
	}
}

func utf16Len(s string) int {
	n := 0
	for _, r := range s {
		n += max(1, utf16.RuneLen(r))
	}
	return n
}
