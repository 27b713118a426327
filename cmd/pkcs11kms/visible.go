package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Descriptions, tags, policies, labels of token objects, names in error messages: others than the one who sits at the
// terminal have set them, and a terminal obeys control sequences wherever they come from (to rename its window, to write over
// what stands above, to show text backwards). So whatever reaches one goes through a function of this file, which leaves
// letters, marks, digits, punctuation, symbols and blanks as they are and writes every other character as Go does: \x1b,
// \u202e, and \xff for a byte that is no UTF-8. JSON stays the same JSON.

var lineEnds = regexp.MustCompile(`\s*\n\s*`)

// oneLine joins the lines of a text and escapes what a terminal would obey.
func oneLine(text string) string { return visible(lineEnds.ReplaceAllString(text, " ")) }

// visible escapes every character that does not show, line ends and tabs too.
func visible(text string) string { return escaped(text, func(string) int { return 0 }) }

// visibleLines is visible for a text of several lines: line ends and tabs stay.
func visibleLines(text string) string {
	return escaped(text, func(rest string) int {
		switch {
		case rest[0] == '\n' || rest[0] == '\t':
			return 1
		case strings.HasPrefix(rest, "\r\n"): // a CR alone would write over the line
			return 2
		}
		return 0
	})
}

// escaped escapes what does not show. harmless returns how many bytes at the start of the rest are kept nevertheless.
func escaped(text string, harmless func(rest string) int) string {
	if strings.IndexFunc(text, hidden) < 0 {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		kept := harmless(text)
		switch {
		case kept > 0:
			size = kept
			b.WriteString(text[:size])
		case hidden(r) && (r != utf8.RuneError || size == 1):
			b.WriteString(strings.Trim(strconv.Quote(text[:size]), `"`))
		default:
			b.WriteString(text[:size])
		}
		text = text[size:]
	}
	return b.String()
}

// hidden tells whether a character does not show. The replacement character, which does, also stands for a wrong byte.
func hidden(r rune) bool { return !unicode.IsGraphic(r) || r == utf8.RuneError }

// visibleJSON escapes in a JSON text what its encoder leaves as it is and a terminal obeys: DEL, the C1 controls, the marks
// that turn the direction of writing. They can stand within strings only, so what is read of it is the same.
func visibleJSON(text []byte) []byte {
	risky := func(r rune) bool { return r >= 0x7f && !unicode.IsGraphic(r) }
	if bytes.IndexFunc(text, risky) < 0 {
		return text
	}
	var b bytes.Buffer
	for _, r := range string(text) {
		switch {
		case !risky(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.Bytes()
}

// visibleTree is a response with all its texts, and the names of what it holds, made visible: each on one line, unless the
// response is nothing but a text.
func visibleTree(root any) any {
	if text, ok := root.(string); ok {
		return visibleLines(text)
	}
	return visibleValue(root)
}

func visibleValue(value any) any {
	switch v := value.(type) {
	case string:
		return visible(v)
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			list[i] = visibleValue(item)
		}
		return list
	case map[string]any:
		m := make(map[string]any, len(v))
		for name, item := range v {
			m[visible(name)] = visibleValue(item)
		}
		return m
	}
	return value
}

// visibleWriter makes visible what is written to it, each Write by itself. It is for logs, of which one Write is a record.
type visibleWriter struct {
	w    io.Writer
	show func([]byte) []byte
}

func (w visibleWriter) Write(p []byte) (int, error) {
	if _, err := w.w.Write(w.show(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// visibleLog is a writer for a log in lines of text.
func visibleLog(w io.Writer) io.Writer {
	return visibleWriter{w, func(p []byte) []byte { return []byte(visibleLines(string(p))) }}
}

// visibleJSONLog is a writer for a log in lines of JSON.
func visibleJSONLog(w io.Writer) io.Writer { return visibleWriter{w, visibleJSON} }
