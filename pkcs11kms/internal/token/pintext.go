package token

import (
	"bytes"
	"unicode"
)

// byteOrderMark is what some editors put in front of UTF-8 text.
var byteOrderMark = []byte("\xef\xbb\xbf")

// pinTextHint is for a text that may hold more than the PIN. A wrong PIN costs one of a few attempts, so nothing is guessed.
const pinTextHint = "write the PIN alone, with at most one line end behind it, for example by: printf '%s\\n' \"$PIN\" > FILE\n" +
	"if these characters belong to the PIN, say so in the URI of the token: ...&pin-exact=true"

// takePIN takes the PIN out of what a file, the environment or a callback holds: a byte order mark in front and one line end
// behind it (LF or CRLF) are not part of it. Other white space at the ends and control characters are more likely a mistake
// than a PIN, and are refused before the token sees them. With exact (pin-exact=true in the URI) the PIN is every byte of the
// text. Errors are an *OpenError that names the source and never repeats the text.
func takePIN(source string, text []byte, exact bool) (string, error) {
	pin := text
	if !exact {
		pin = bytes.TrimPrefix(pin, byteOrderMark)
		if line, ended := bytes.CutSuffix(pin, []byte("\n")); ended {
			pin = bytes.TrimSuffix(line, []byte("\r"))
		}
	}
	switch {
	case len(pin) == 0:
		return "", refuse(PINSource, nil, source+" is empty", "give the PIN of the token's user")
	case len(pin) > maxPINFile:
		return "", refuse(PINSource, nil, source+" is too large", "it must be the PIN and nothing else")
	case exact:
	case bytes.ContainsAny(pin, "\r\n"):
		return "", refuse(PINSource, nil, source+" holds more than one line", pinTextHint)
	case len(bytes.TrimSpace(pin)) < len(pin):
		return "", refuse(PINSource, nil, source+" begins or ends with white space", pinTextHint)
	case bytes.ContainsFunc(pin, unicode.IsControl):
		return "", refuse(PINSource, nil, source+" holds a control character", pinTextHint)
	}
	return string(pin), nil
}
