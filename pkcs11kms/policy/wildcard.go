package policy

import (
	"strings"
	"unicode/utf8"
)

// In a compiled pattern a wildcard is a byte that UTF-8 never uses, so that "*" and "?" stay what they are in patterns
// that take them literally, and no value of a variable can become a wildcard.
const (
	anyRun  = '\xff' // *
	anyChar = '\xfe' // ?
)

var wildcards = strings.NewReplacer("*", string([]byte{anyRun}), "?", string([]byte{anyChar}))

// pattern is a text to compare with, with or without wildcards in it.
type pattern struct {
	text string
	wild bool
	lead int // bytes before the first wildcard
}

// newPattern makes "*" and "?" wildcards.
func newPattern(text string) pattern { return compiledPattern(wildcards.Replace(text)) }

// compiledPattern takes a text whose wildcards are in their compiled form.
func compiledPattern(text string) pattern {
	lead := len(text)
	for _, wildcard := range []byte{anyRun, anyChar} {
		if i := strings.IndexByte(text, wildcard); i >= 0 {
			lead = min(lead, i)
		}
	}
	return pattern{text: text, wild: lead < len(text), lead: lead}
}

// match tells whether the pattern covers the whole of s. With fold the pattern is in lower case, and ASCII letters of s
// count as lower case.
//
// It goes forward through both and remembers only the last "*": when the rest does not fit, that "*" takes one character
// more. So the number of steps is at most the product of the two lengths, whatever the pattern. Each step is paid for.
func (p *pattern) match(s string, fold bool, left *int) verdict {
	*left--
	if !p.wild && len(p.text) != len(s) {
		return no
	}
	i, j := 0, 0 // positions in pattern and s
	if !fold {   // what comes before the wildcards is compared at once
		if *left -= p.lead; *left < 0 {
			return unknown
		}
		if !strings.HasPrefix(s, p.text[:p.lead]) {
			return no
		}
		i, j = p.lead, p.lead
	}
	star, resume := -1, 0 // position after the last "*", and where in s it would go on
	for j < len(s) {
		if *left--; *left < 0 {
			return unknown
		}
		if i < len(p.text) {
			switch c := p.text[i]; {
			case c == anyRun:
				i++
				if i == len(p.text) {
					return yes
				}
				star, resume = i, j
				continue
			case c == anyChar:
				i++
				j += width(s[j:])
				continue
			case c == s[j] || fold && c == lower(s[j]):
				i++
				j++
				continue
			}
		}
		if star < 0 {
			return no
		}
		resume += width(s[resume:])
		i, j = star, resume
	}
	for i < len(p.text) && p.text[i] == anyRun {
		*left--
		i++
	}
	return verdictOf(i == len(p.text))
}

// width is the length of the first character of s in bytes.
func width(s string) int {
	if s[0] < utf8.RuneSelf {
		return 1
	}
	_, n := utf8.DecodeRuneInString(s)
	return n
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
