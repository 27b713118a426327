// Package keyid reads the forms of a KeyId: key id, key ARN, alias name and alias ARN (AWS KMS developer guide, "Key
// identifiers"). It knows neither keys nor callers, and needs no cgo.
package keyid

import "strings"

// Home is where names without an ARN belong.
type Home struct {
	Partition string
	Region    string
	Account   string
}

// ID names a key or an alias, with the region and account it lives in.
type ID struct {
	Region  string
	Account string
	Key     string // bare key id, when it names a key
	Alias   string // alias name with its prefix, when it names an alias
}

// AliasPrefix begins every alias name.
const AliasPrefix = "alias/"

// Error says why a text is no KeyId, in the words of the real service.
type Error struct {
	ARN  bool // InvalidArnException; else NotFoundException, which the real service answers for most of them
	Text string
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

// The forms of a key id and of an account: x is a lower-case hexadecimal digit, 0 a digit, and everything else itself. They
// are on the path of every request, where a regular expression takes as long as the rest of the parsing.
const (
	keyForm         = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
	multiRegionForm = "mrk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
	accountForm     = "000000000000"
)

// hasForm compares a text with a form.
func hasForm(text, form string) bool {
	if len(text) != len(form) {
		return false
	}
	for i := range len(form) {
		c := text[i]
		digit := c >= '0' && c <= '9'
		switch form[i] {
		case 'x':
			if !digit && (c < 'a' || c > 'f') {
				return false
			}
		case '0':
			if !digit {
				return false
			}
		default:
			if c != form[i] {
				return false
			}
		}
	}
	return true
}

// Parse reads a KeyId. Alias forms are refused unless the operation takes them. Errors are of type *Error.
func Parse(text string, home Home, aliases bool) (ID, error) {
	id := ID{Region: home.Region, Account: home.Account}
	resource := text
	if strings.HasPrefix(text, "arn:") {
		var err error
		if id, resource, err = parseARN(text, home); err != nil {
			return ID{}, err
		}
	}
	switch {
	case strings.HasPrefix(resource, AliasPrefix) && aliases:
		id.Alias = resource
	case !hasForm(resource, keyForm) && !hasForm(resource, multiRegionForm):
		return ID{}, &Error{Text: "Invalid keyId '" + text + "'"}
	default:
		id.Key = resource
	}
	return id, nil
}

// parseARN takes an ARN apart and returns what follows "key/", or an alias with its prefix.
func parseARN(text string, home Home) (ID, string, error) {
	parts := strings.SplitN(text, ":", 6)
	if len(parts) != 6 || parts[1] != home.Partition || parts[2] != "kms" || !hasForm(parts[4], accountForm) {
		return ID{}, "", &Error{ARN: true, Text: "Invalid arn " + text}
	}
	if parts[3] != home.Region {
		// The real service answers NotFoundException here, not InvalidArnException.
		return ID{}, "", &Error{Text: "Invalid arn " + parts[3]}
	}
	id := ID{Region: parts[3], Account: parts[4]}
	if key, ok := strings.CutPrefix(parts[5], "key/"); ok {
		return id, key, nil
	}
	if strings.HasPrefix(parts[5], AliasPrefix) {
		return id, parts[5], nil
	}
	return ID{}, "", &Error{ARN: true, Text: "Invalid arn " + text}
}

// ARN returns the ARN of the key or alias.
func (id ID) ARN(partition string) string {
	resource := "key/" + id.Key
	if id.Alias != "" {
		resource = id.Alias
	}
	return "arn:" + partition + ":kms:" + id.Region + ":" + id.Account + ":" + resource
}
