package awsjson

import (
	"bytes"
	"encoding/binary"
	"unicode/utf16"
	"unicode/utf8"
)

// text reads a string and resolves its escapes. The result is part of the body when there are none. reason is the
// error's text if something else comes next.
func (s *scanner) text(reason string) ([]byte, error) {
	raw, escaped, err := s.quoted(reason)
	if err != nil || !escaped {
		return raw, err
	}
	return unescape(raw), nil
}

// quoted reads a string and returns what stands between its quotes, with its escapes, all of which are well-formed.
func (s *scanner) quoted(reason string) (raw []byte, escaped bool, err error) {
	if s.next() != '"' {
		return nil, false, s.fail(reason)
	}
	s.pos++
	start := s.pos
	for {
		s.pos += plainPrefix(s.data[s.pos:])
		if s.pos == len(s.data) {
			return nil, false, s.fail(openString)
		}
		switch s.data[s.pos] {
		case '"':
			s.pos++
			return s.data[start : s.pos-1], escaped, nil
		case '\\':
			escaped = true
			_, n, bad := escape(s.data[s.pos:])
			if bad != "" {
				return nil, false, s.fail(bad)
			}
			s.pos += n
		default:
			return nil, false, s.fail(controlChar)
		}
	}
}

// plainPrefix returns how many bytes of a string, from its start, are neither a quote, a backslash nor a control
// character. It looks at eight bytes at a time, as messages are long: in a word, the top bit of a byte is set by the
// subtraction where the byte is below the one subtracted, and may be set wrongly only above such a byte.
func plainPrefix(b []byte) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(b[n:])
		quote, backslash := w^'"'*ones, w^'\\'*ones
		if ((w-' '*ones)&^w|(quote-ones)&^quote|(backslash-ones)&^backslash)&tops != 0 {
			break
		}
	}
	for n < len(b) && b[n] >= ' ' && b[n] != '"' && b[n] != '\\' {
		n++
	}
	return n
}

// unescape resolves the escapes of a string that quoted has returned.
func unescape(raw []byte) []byte {
	plain := make([]byte, 0, len(raw))
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return append(plain, raw...)
		}
		plain = append(plain, raw[:i]...)
		r, n, _ := escape(raw[i:])
		plain = utf8.AppendRune(plain, r)
		raw = raw[i+n:]
	}
}

// escape reads the escape sequence, n bytes long, that b begins with. bad says what is wrong with it.
func escape(b []byte) (r rune, n int, bad string) {
	if len(b) < 2 {
		return 0, 0, openString
	}
	switch c := b[1]; c {
	case '"', '\\', '/':
		return rune(c), 2, ""
	case 'b':
		return '\b', 2, ""
	case 'f':
		return '\f', 2, ""
	case 'n':
		return '\n', 2, ""
	case 'r':
		return '\r', 2, ""
	case 't':
		return '\t', 2, ""
	}
	unit, ok := codeUnit(b)
	if !ok {
		return 0, 0, badEscape
	}
	if !utf16.IsSurrogate(unit) {
		return unit, 6, ""
	}
	low, ok := codeUnit(b[6:])
	if r := utf16.DecodeRune(unit, low); ok && r != utf8.RuneError {
		return r, 12, ""
	}
	return 0, 0, badSurrogate
}

// codeUnit reads the UTF-16 code unit of a \uXXXX that b begins with.
func codeUnit(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var unit rune
	for _, c := range b[2:6] {
		switch {
		case isDigit(c):
			unit = unit<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			unit = unit<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return unit, true
}

const hexDigits = "0123456789ABCDEF"

// short holds the second byte of the escapes that have one of their own.
var short = [utf8.RuneSelf]byte{'"': '"', '\\': '\\', '\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}

// verbatim holds the ASCII characters that stand for themselves in a string.
var verbatim = func() (table [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		table[c] = c != '"' && c != '\\'
	}
	return table
}()

// appendText writes text as a JSON string. Only what JSON demands is escaped, so a policy document stays readable;
// bytes that are not UTF-8 become U+FFFD.
func appendText(dst []byte, text string) []byte {
	dst = append(dst, '"')
	done := 0
	for i := 0; i < len(text); {
		c := text[i]
		if verbatim[c] {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			dst = appendEscape(append(dst, text[done:i]...), c)
			i++
			done = i
			continue
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 {
			dst = utf8.AppendRune(append(dst, text[done:i]...), r)
			done = i + n
		}
		i += n
	}
	return append(append(dst, text[done:]...), '"')
}

func appendEscape(dst []byte, c byte) []byte {
	if short[c] != 0 {
		return append(dst, '\\', short[c])
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}
