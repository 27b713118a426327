package token

import (
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// uriHint shows the form that is wanted; most mistakes are mended by looking at it.
const uriHint = "give a URI like 'pkcs11:token=LABEL;serial=SERIAL?module-path=/path/to/module.so&pin-source=file:/path/to/pin'"

// URI is a PKCS#11 URI (RFC 7512) that names a token. An empty selector matches any token. It holds no secret: the PIN is
// named by its file only.
//
// The parser is our own. A URI that is read generously opens another token than the one that was meant, so it takes only
// the attributes that this package acts upon and refuses the rest by name, with a hint; the libraries that read RFC 7512
// accept vendor attributes and pin-value, and follow module-name.
type URI struct {
	Token        string // CK_TOKEN_INFO.label
	Serial       string // CK_TOKEN_INFO.serialNumber
	Manufacturer string // CK_TOKEN_INFO.manufacturerID
	Model        string // CK_TOKEN_INFO.model
	ModulePath   string // absolute path of the module
	PINFile      string // absolute path of the file with the PIN; empty if the URI names none
	PINExact     bool   // every byte that the source of the PIN holds is part of it; pin-exact=true, which is not of RFC 7512
}

// attribute is what the parser does with one attribute name.
type attribute struct {
	max   int // bytes; a longer value could match no token
	field func(*URI) *string
	flag  func(*URI) *bool                   // in place of field: the one value is true
	check func(value string) (string, error) // nil: the value is taken as it is
}

// The lengths are those of the fixed fields of CK_TOKEN_INFO.
var pathAttributes = map[string]attribute{
	"token":        {max: 32, field: func(u *URI) *string { return &u.Token }},
	"serial":       {max: 16, field: func(u *URI) *string { return &u.Serial }},
	"manufacturer": {max: 32, field: func(u *URI) *string { return &u.Manufacturer }},
	"model":        {max: 16, field: func(u *URI) *string { return &u.Model }},
}

var queryAttributes = map[string]attribute{
	"module-path": {max: 4096, field: func(u *URI) *string { return &u.ModulePath }, check: checkModulePath},
	"pin-source":  {max: 4096, field: func(u *URI) *string { return &u.PINFile }, check: checkPINSource},
	"pin-exact":   {max: 4, flag: func(u *URI) *bool { return &u.PINExact }, check: checkTrue},
}

// refusedAttributes are in RFC 7512 but not for us; the text is the hint.
var refusedAttributes = map[string]string{
	"slot-id":              "slot numbers change when tokens are initialised: name the token by token= or serial=",
	"slot-description":     "name the token by token= or serial=, not by its slot",
	"slot-manufacturer":    "name the token by token= or serial=, not by its slot",
	"pin-value":            "a PIN in a URI ends up in logs and process lists: put it in a file and name that by pin-source=file:/path",
	"module-name":          "give the module's whole path: module-path=/path/to/module.so",
	"library-manufacturer": "the library is named by module-path",
	"library-description":  "the library is named by module-path",
	"library-version":      "the library is named by module-path",
	"object":               "the URI names a token, not an object in it: leave object out",
	"type":                 "the URI names a token, not an object in it: leave type out",
	"id":                   "the URI names a token, not an object in it: leave id out",
}

func badURI(hint, format string, args ...any) error {
	return refuse(BadURI, nil, fmt.Sprintf(format, args...), hint)
}

// ParseURI reads a PKCS#11 URI. Besides the syntax of RFC 7512 it wants a module-path, and it refuses attributes that it
// does not act upon. Every error is an *OpenError. The URI is not repeated in it, since a refused one may hold a PIN.
func ParseURI(s string) (URI, error) {
	var u URI
	const scheme = "pkcs11:"
	if len(s) < len(scheme) || !strings.EqualFold(s[:len(scheme)], scheme) {
		return u, badURI(uriHint, "parsing the PKCS#11 URI: it does not begin with %q", scheme)
	}
	path, query, hasQuery := strings.Cut(s[len(scheme):], "?")
	if err := parseAttributes(&u, path, ";", "&", pathAttributes); err != nil {
		return URI{}, err
	}
	if hasQuery {
		if err := parseAttributes(&u, query, "&", "/?|", queryAttributes); err != nil {
			return URI{}, err
		}
	}
	if u.ModulePath == "" {
		return URI{}, badURI(uriHint, "parsing the PKCS#11 URI: module-path is missing")
	}
	return u, nil
}

// parseAttributes reads one of the two lists. extra are the characters that only this list may hold unescaped.
func parseAttributes(u *URI, list, separator, extra string, known map[string]attribute) error {
	if list == "" {
		return nil
	}
	for _, part := range strings.Split(list, separator) {
		name, raw, ok := strings.Cut(part, "=")
		if !ok || name == "" {
			return badURI(uriHint, "parsing the PKCS#11 URI: an attribute is not of the form name=value")
		}
		a, ok := known[name]
		if !ok {
			return refusedAttribute(name)
		}
		if a.given(u) {
			return badURI("give each attribute once", "parsing the PKCS#11 URI: attribute %q is given twice", name)
		}
		value, err := attributeValue(name, raw, extra, a)
		if err != nil {
			return err
		}
		a.set(u, value)
	}
	return nil
}

func (a attribute) given(u *URI) bool {
	if a.flag != nil {
		return *a.flag(u)
	}
	return *a.field(u) != ""
}

func (a attribute) set(u *URI, value string) {
	if a.flag != nil {
		*a.flag(u) = true
		return
	}
	*a.field(u) = value
}

func refusedAttribute(name string) error {
	if hint, ok := refusedAttributes[name]; ok {
		return badURI(hint, "parsing the PKCS#11 URI: attribute %q is refused", name)
	}
	for _, both := range []map[string]attribute{pathAttributes, queryAttributes} {
		if _, ok := both[name]; ok {
			return badURI("token, serial, manufacturer and model stand before the '?', separated by ';'; "+
				"module-path, pin-source and pin-exact behind it, separated by '&'",
				"parsing the PKCS#11 URI: attribute %q stands on the wrong side of the '?'", name)
		}
	}
	return badURI(uriHint, "parsing the PKCS#11 URI: attribute %q is not known", clip(name))
}

// clip keeps a stray value, perhaps a secret behind a missing '=', from being repeated at length in an error.
func clip(name string) string {
	if len(name) > 32 {
		return name[:32] + "..."
	}
	return name
}

func attributeValue(name, raw, extra string, a attribute) (string, error) {
	value, err := percentDecode(raw, extra)
	if err != nil {
		return "", badURI("write every character other than letters, digits and -._~:[]@!$'()*+,= as %XX",
			"parsing the PKCS#11 URI: attribute %q: %v", name, err)
	}
	switch {
	case value == "":
		return "", badURI("leave the attribute out to match any value", "parsing the PKCS#11 URI: attribute %q is empty", name)
	case len(value) > a.max:
		return "", badURI("check the value", "parsing the PKCS#11 URI: attribute %q is longer than %d bytes", name, a.max)
	case strings.ContainsRune(value, 0) || !utf8.ValidString(value):
		return "", badURI("check the value", "parsing the PKCS#11 URI: attribute %q is not UTF-8 text", name)
	case a.check != nil:
		return a.check(value)
	}
	// Fields of CK_TOKEN_INFO are padded with blanks, so a blank at the end means nothing.
	if value = strings.TrimRight(value, " "); value == "" {
		return "", badURI("leave the attribute out to match any value", "parsing the PKCS#11 URI: attribute %q is blank", name)
	}
	return value, nil
}

func checkModulePath(value string) (string, error) {
	if !filepath.IsAbs(value) {
		return "", badURI("give the module's whole path: module-path=/path/to/module.so",
			"parsing the PKCS#11 URI: module-path %q is not absolute", value)
	}
	return value, nil
}

func checkTrue(value string) (string, error) {
	if value != "true" {
		return "", badURI("write pin-exact=true, or leave it out", "parsing the PKCS#11 URI: pin-exact is not true")
	}
	return value, nil
}

func checkPINSource(value string) (string, error) {
	const hint = "put the PIN in a file and name that: pin-source=file:/path/to/pin"
	path, ok := strings.CutPrefix(value, "file:")
	if !ok {
		// The value is not repeated: it may be the PIN itself.
		if strings.HasPrefix(value, "|") {
			return "", badURI(hint, "parsing the PKCS#11 URI: pin-source names a command, which is refused")
		}
		return "", badURI(hint, "parsing the PKCS#11 URI: pin-source does not begin with \"file:\"")
	}
	if rest, ok := strings.CutPrefix(path, "//"); ok { // file:///path and file://localhost/path
		path = strings.TrimPrefix(rest, "localhost")
	}
	if !filepath.IsAbs(path) || strings.HasPrefix(path, "//") {
		return "", badURI(hint, "parsing the PKCS#11 URI: the file of pin-source is not an absolute path")
	}
	return path, nil
}

// reserved are the characters beside letters and digits that RFC 7512 lets stand unescaped in both lists.
const reserved = "-._~:[]@!$'()*+,="

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func percentDecode(s, extra string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case isAlphanumeric(c) || strings.IndexByte(reserved, c) >= 0 || strings.IndexByte(extra, c) >= 0:
			b.WriteByte(c)
		case c == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0:
			b.WriteByte(byte(unhex(s[i+1])<<4 | unhex(s[i+2])))
			i += 2
		case c == '%':
			return "", fmt.Errorf("%q is not followed by two hexadecimal digits", "%")
		default:
			return "", fmt.Errorf("character %q must be percent-encoded", string(rune(c)))
		}
	}
	return b.String(), nil
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// String returns the URI in one canonical form, which ParseURI reads back. It holds no secret.
func (u URI) String() string {
	var path, query []string
	add := func(list *[]string, name, value, extra string) {
		if value != "" {
			*list = append(*list, name+"="+percentEncode(value, extra))
		}
	}
	add(&path, "token", u.Token, "")
	add(&path, "serial", u.Serial, "")
	add(&path, "manufacturer", u.Manufacturer, "")
	add(&path, "model", u.Model, "")
	add(&query, "module-path", u.ModulePath, "/")
	if u.PINFile != "" {
		add(&query, "pin-source", "file:"+u.PINFile, "/")
	}
	if u.PINExact {
		add(&query, "pin-exact", "true", "")
	}
	s := "pkcs11:" + strings.Join(path, ";")
	if len(query) > 0 {
		s += "?" + strings.Join(query, "&")
	}
	return s
}

func percentEncode(s, extra string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; isAlphanumeric(c) || strings.IndexByte("-._~:", c) >= 0 || strings.IndexByte(extra, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
