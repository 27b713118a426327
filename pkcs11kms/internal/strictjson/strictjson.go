// Package strictjson refuses what encoding/json lets pass: a document of which two readers could understand two things.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

var (
	errNoUTF8   = errors.New("no UTF-8") // encoding/json would put a replacement character there
	errNoJSON   = errors.New("no JSON")
	errNoObject = errors.New("no JSON object")
	errHalf     = errors.New("JSON with half a surrogate pair in a string") // as it would there
	errTwice    = errors.New("JSON with a member twice in one object")
)

// Check tells what keeps a document from being exactly one JSON value in UTF-8 whose strings are of whole characters and whose
// objects, at any depth, have no member twice. The error never holds a part of the document. Like all errors here it completes
// "the document is ...".
func Check(doc []byte) error {
	switch {
	case !utf8.Valid(doc):
		return errNoUTF8
	case !json.Valid(doc):
		return errNoJSON
	case loneSurrogate(doc):
		return errHalf
	case duplicateNames(doc):
		return errTwice
	}
	return nil
}

// Object is Check for a document that must be an object.
func Object(doc []byte) error {
	if err := Check(doc); err != nil {
		return err
	}
	if bytes.TrimLeft(doc, " \t\r\n")[0] != '{' {
		return errNoObject
	}
	return nil
}

// Decode is json.Unmarshal after Object. Numbers that go into an interface are json.Number, which keeps their digits. The
// error never holds a part of the document.
func Decode(doc []byte, target any) error {
	if err := Object(doc); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	if err := dec.Decode(target); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return fmt.Errorf("a JSON object whose member %q is of the wrong type", wrong.Field) // err holds the value
		}
		return errors.New("a JSON object with a member of an unexpected form") // as does the error of a type that reads itself
	}
	return nil
}

// loneSurrogate tells whether a string of a valid JSON document has an escape that is half a character: "\ud800".
func loneSurrogate(doc []byte) bool {
	for {
		i := bytes.IndexByte(doc, '\\') // which stands in strings only
		if i < 0 {
			return false
		}
		doc = doc[i:]
		unit, ok := codeUnit(doc)
		switch {
		case !ok:
			doc = doc[2:]
		case !utf16.IsSurrogate(unit):
			doc = doc[6:]
		default:
			low, _ := codeUnit(doc[6:])
			if utf16.DecodeRune(unit, low) == utf8.RuneError {
				return true
			}
			doc = doc[12:]
		}
	}
}

// codeUnit reads the UTF-16 code unit of a \uXXXX that b begins with.
func codeUnit(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return rune(unit), err == nil
}

// duplicateNames tells whether an object of a valid JSON document has a member twice: encoding/json would take the
// last one silently.
func duplicateNames(doc []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()             // a number may be out of the range of float64, which ends the reading
	var stack []map[string]bool // nil: inside a list
	name := false               // the next string of the innermost object is a member name
	for {
		tok, err := dec.Token()
		if err != nil {
			return false
		}
		switch tok := tok.(type) {
		case json.Delim:
			switch tok {
			case '{':
				stack = append(stack, map[string]bool{})
			case '[':
				stack = append(stack, nil)
			default:
				stack = stack[:len(stack)-1]
			}
			name = len(stack) > 0 && stack[len(stack)-1] != nil
			continue
		case string:
			if name {
				names := stack[len(stack)-1]
				if names[tok] {
					return true
				}
				names[tok] = true
				name = false
				continue
			}
		}
		name = len(stack) > 0 && stack[len(stack)-1] != nil
	}
}

// Members returns the members of a document that is exactly one JSON object in UTF-8, none of them twice. What is inside them
// may have members twice: Decode refuses that, where each is read.
func Members(doc []byte) (map[string]json.RawMessage, error) {
	switch {
	case !utf8.Valid(doc):
		return nil, errNoUTF8
	case !json.Valid(doc):
		return nil, errNoJSON
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil, errNoObject
	}
	members := map[string]json.RawMessage{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, errNoJSON
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errNoJSON
		}
		if _, twice := members[name.(string)]; twice { // a valid object has no names but strings
			return nil, errTwice
		}
		members[name.(string)] = value
	}
	return members, nil
}
