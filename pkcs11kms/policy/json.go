package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxDepth is more than any valid document has: document, list of statements, statement, Condition, operator, list.
const maxDepth = 8

// node is a value of a JSON document that knows where it stands. encoding/json alone would take the last of two members
// with one name and take names without regard to case; both can hide what a policy says.
type node struct {
	kind       shape
	text       string // a string's value, the literal of anything else that is no container
	start, end int    // where it stands, in bytes
	names      []node // of an object, parallel to items
	items      []node // of an object or a list
}

type shape int

const (
	aString shape = iota
	aNumber
	aBool
	aNull
	aList
	anObject
)

func (s shape) String() string {
	return [...]string{"a string", "a number", "a boolean", "null", "a list", "an object"}[s]
}

// member returns the value of the member, nil if there is none.
func (n *node) member(name string) *node {
	for i := range n.names {
		if n.names[i].text == name {
			return &n.items[i]
		}
	}
	return nil
}

// list returns the elements of a list, or the value itself where a single one stands for a list of one.
func (n *node) list() []node {
	if n.kind == aList {
		return n.items
	}
	return []node{*n}
}

// readJSON reads a whole document: characters that a policy may have, strict JSON, no member twice at any depth.
func readJSON(text string) (node, error) {
	if err := checkCharacters(text); err != nil {
		return node{}, err
	}
	var whole json.RawMessage
	if err := json.Unmarshal([]byte(text), &whole); err != nil {
		at := len(text)
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			at = max(0, int(syntax.Offset)-1)
		}
		return node{}, errorAt(text, at, "", "not valid JSON: %v", err)
	}
	r := reader{text: text, dec: json.NewDecoder(strings.NewReader(text))}
	r.dec.UseNumber()
	return r.value(1)
}

// checkCharacters holds the length and the pattern of the API model: tab, LF, CR and U+0020 to U+00FF.
func checkCharacters(text string) error {
	if n := utf8.RuneCountInString(text); n > MaxCharacters {
		return errorAt(text, 0, "", "longer than %d characters", MaxCharacters)
	}
	for i, c := range text {
		if c == utf8.RuneError || c > 0xff || c < 0x20 && c != '\t' && c != '\n' && c != '\r' {
			return errorAt(text, i, "", "a character that a policy may not have")
		}
	}
	return nil
}

// reader turns the tokens of a valid document into nodes.
type reader struct {
	text string
	dec  *json.Decoder
}

func (r *reader) value(depth int) (node, error) {
	start := int(r.dec.InputOffset())
	start += len(r.text[start:]) - len(strings.TrimLeft(r.text[start:], " \t\r\n,:"))
	tok, err := r.dec.Token()
	if err != nil {
		return node{}, errorAt(r.text, start, "", "not valid JSON: %v", err)
	}
	n := node{start: start, end: int(r.dec.InputOffset())}
	switch tok := tok.(type) {
	case json.Delim:
		if depth > maxDepth {
			return node{}, errorAt(r.text, start, "", "nested deeper than %d levels", maxDepth)
		}
		if n.kind = aList; tok == '{' {
			n.kind = anObject
		}
		return r.container(n, depth)
	case string:
		n.kind, n.text = aString, tok
		if strings.ContainsRune(tok, utf8.RuneError) { // what the decoder makes of half a surrogate pair
			return node{}, errorAt(r.text, start, "", "a string with an escape that is no character")
		}
	case json.Number:
		n.kind, n.text = aNumber, tok.String()
	case bool:
		n.kind, n.text = aBool, fmt.Sprint(tok)
	default:
		n.kind, n.text = aNull, "null"
	}
	return n, nil
}

func (r *reader) container(n node, depth int) (node, error) {
	seen := map[string]bool{}
	for r.dec.More() {
		if n.kind == anObject {
			name, err := r.value(depth + 1)
			if err != nil {
				return node{}, err
			}
			if seen[name.text] {
				return node{}, errorAt(r.text, name.start, "", "member %s twice in one object", excerpt(name.text))
			}
			seen[name.text] = true
			n.names = append(n.names, name)
		}
		item, err := r.value(depth + 1)
		if err != nil {
			return node{}, err
		}
		n.items = append(n.items, item)
	}
	_, err := r.dec.Token() // the closing bracket
	n.end = int(r.dec.InputOffset())
	return n, err
}

// errorAt makes a SyntaxError for the byte position in the text.
func errorAt(text string, at int, path, format string, args ...any) error {
	line, column := position(text, at)
	return &SyntaxError{Path: path, Reason: fmt.Sprintf(format, args...), Line: line, Column: column}
}

// position returns line and column, from 1, of a byte of the text.
func position(text string, at int) (line, column int) {
	before := text[:min(at, len(text))]
	return 1 + strings.Count(before, "\n"), 1 + utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])
}

const excerptBytes = 40

// excerpt quotes the beginning of what somebody wrote, for an error.
func excerpt(s string) string { return excerptOf(s, excerptBytes) }

func excerptOf(s string, most int) string {
	if len(s) <= most {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q...", beginning(s, most))
}

// beginning returns at most n bytes of whole characters.
func beginning(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
