package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// shorthandText is a scalar of the shorthand syntax. file says that it was given by NAME@=VALUE, which takes file://PATH.
type shorthandText struct {
	text string
	file bool
}

// shorthand is the aws CLI's parser of NAME=VALUE,NAME=VALUE (awscli/shorthand.py), with its quotings: "..." and '...', in
// which a backslash stands before a quote or another backslash, and \, for a comma outside of quotes. VALUE may be a list
// ([a,b] or a,b) or an object ({a=b}). Its errors hold no part of the text. For one text and one goroutine.
type shorthand struct {
	text  string
	at    int // byte offset
	depth int // of lists and objects
	file  bool
}

// maxShorthandDepth is more than any structure of the API has.
const maxShorthandDepth = 16

// parseShorthand returns the members by their names. Values are of type shorthandText, []any or map[string]any.
func parseShorthand(text string) (map[string]any, error) {
	p := &shorthand{text: text}
	members := map[string]any{}
	for {
		name, value, err := p.member()
		if err != nil {
			return nil, err
		}
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("it names %s twice", displayMember(name))
		}
		members[name] = value
		if p.at == len(p.text) {
			return members, nil
		}
		if err := p.expect(','); err != nil {
			return nil, err
		}
	}
}

// displayMember keeps what is no name of a member out of errors: it may be a value in the wrong place.
func displayMember(name string) string {
	if len(name) > 40 {
		return "a member"
	}
	return name
}

// member reads NAME=VALUE or NAME@=VALUE.
func (p *shorthand) member() (name string, value any, err error) {
	if name, err = p.name(); err != nil {
		return "", nil, err
	}
	if p.at == len(p.text) {
		return name, shorthandText{file: p.file}, nil
	}
	switch p.text[p.at] {
	case '[':
		value, err = p.list()
	case '{':
		value, err = p.object()
	default:
		value, err = p.commaSeparated()
	}
	return name, value, err
}

// name reads NAME= or NAME@=.
func (p *shorthand) name() (string, error) {
	from := p.at
	for p.at < len(p.text) && (isASCIILetterOrDigit(p.text[p.at]) || strings.IndexByte("-_.#/:", p.text[p.at]) >= 0) {
		p.at++
	}
	name := p.text[from:p.at]
	p.blanks()
	p.file = false
	if p.next('@') {
		p.at++
		p.file = true
	}
	if err := p.expect('='); err != nil {
		return "", err
	}
	return name, nil
}

func isASCIILetterOrDigit(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// commaSeparated reads one value, or several with commas between. What begins like one more value and does not end at a
// comma is the next member.
func (p *shorthand) commaSeparated() (any, error) {
	first, err := p.value()
	if err != nil {
		return nil, err
	}
	values := []any{first}
	p.blanks()
	for p.next(',') {
		comma := p.at
		p.at++
		p.blanks()
		if p.next(',') { // of two commas one counts
			break
		}
		value, err := p.further()
		if err != nil {
			return nil, err
		}
		p.blanks()
		if p.at < len(p.text) && !p.next(',') {
			p.at = comma
			break
		}
		values = append(values, value)
	}
	if len(values) == 1 {
		return first, nil
	}
	return values, nil
}

// value reads a quoted value, or an unquoted one, which may be empty.
func (p *shorthand) value() (shorthandText, error) {
	if p.next('"') || p.next('\'') {
		return p.quoted()
	}
	return p.unquoted(`"',=[{`, `"',]}`), nil
}

// further reads a value behind a comma, which is not empty and ends before a =.
func (p *shorthand) further() (shorthandText, error) {
	if p.next('"') || p.next('\'') {
		return p.quoted()
	}
	from := p.at
	value := p.unquoted(`"',=[{`, `"',=`)
	if p.at == from {
		return value, errors.New("a value is missing behind a comma")
	}
	return value, nil
}

// unquoted reads up to a character that is among those that end a value, or for the first one among those that begin none.
func (p *shorthand) unquoted(noBegin, ends string) shorthandText {
	from, stop := p.at, noBegin
	for p.at < len(p.text) {
		c := p.text[p.at]
		switch {
		case c == '\\' && strings.HasPrefix(p.text[p.at:], `\,`):
			p.at++
		case strings.IndexByte(stop, c) >= 0, p.at == from && c <= ' ', c < ' ' && !isBlank(c):
			return p.scalar(from)
		}
		p.at++
		stop = ends
	}
	return p.scalar(from)
}

func (p *shorthand) scalar(from int) shorthandText {
	text := strings.ReplaceAll(p.text[from:p.at], `\,`, ",")
	return shorthandText{strings.TrimRightFunc(text, unicode.IsSpace), p.file}
}

// quoted reads a value in quotes.
func (p *shorthand) quoted() (shorthandText, error) {
	quote := p.text[p.at]
	for end := p.at + 1; end < len(p.text); end++ {
		switch {
		case p.text[end] == '\\' && end+1 < len(p.text) && p.text[end+1] == quote && p.closes(quote, end+2):
			end++
		case p.text[end] == quote:
			text := strings.ReplaceAll(p.text[p.at+1:end], `\`+string(quote), string(quote))
			p.at = end + 1
			return shorthandText{strings.ReplaceAll(text, `\\`, `\`), p.file}, nil
		}
	}
	return shorthandText{}, errors.New("a quoted value has no end")
}

// closes tells whether a quote follows. Without one the quote behind a backslash is the end itself, as in "C:\".
func (p *shorthand) closes(quote byte, from int) bool {
	return strings.IndexByte(p.text[from:], quote) >= 0
}

// list reads [VALUE,VALUE].
func (p *shorthand) list() (any, error) {
	values := []any{}
	err := p.enclosed('[', ']', func() error {
		value, err := p.element()
		values = append(values, value)
		return err
	})
	return values, err
}

// object reads {NAME=VALUE,NAME=VALUE}.
func (p *shorthand) object() (any, error) {
	members := map[string]any{}
	err := p.enclosed('{', '}', func() error {
		name, err := p.name()
		if err != nil {
			return err
		}
		members[name], err = p.element()
		return err
	})
	return members, err
}

// enclosed reads what stands between brackets, with commas between; the last one may be followed by none.
func (p *shorthand) enclosed(open, end byte, element func() error) error {
	if p.depth++; p.depth > maxShorthandDepth {
		return errors.New("lists and objects are too deep in each other")
	}
	defer func() { p.depth-- }()
	if err := p.expect(open); err != nil {
		return err
	}
	for !p.next(end) {
		if err := element(); err != nil {
			return err
		}
		p.blanks()
		if p.next(end) {
			break
		}
		if err := p.expect(','); err != nil {
			return err
		}
	}
	p.at++
	return nil
}

func (p *shorthand) element() (any, error) {
	switch {
	case p.next('['):
		return p.list()
	case p.next('{'):
		return p.object()
	}
	return p.value()
}

func (p *shorthand) next(c byte) bool { return p.at < len(p.text) && p.text[p.at] == c }

// expect reads one character with the blanks around it.
func (p *shorthand) expect(c byte) error {
	p.blanks()
	if !p.next(c) {
		return fmt.Errorf("%q is missing at character %d", string(c), len([]rune(p.text[:p.at]))+1)
	}
	p.at++
	p.blanks()
	return nil
}

func (p *shorthand) blanks() {
	for p.at < len(p.text) && isBlank(p.text[p.at]) {
		p.at++
	}
}

// isBlank tells what may stand around commas: ASCII white space.
func isBlank(c byte) bool { return slices.Contains([]byte(" \t\n\r\v\f"), c) }
