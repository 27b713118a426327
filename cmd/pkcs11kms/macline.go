package main

import (
	"encoding/hex"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// tagLengths are the lengths of the MACs in bytes. A MAC is never truncated.
var tagLengths = map[types.MacAlgorithmSpec]int{
	types.MacAlgorithmSpecHmacSha224: 28,
	types.MacAlgorithmSpecHmacSha256: 32,
	types.MacAlgorithmSpecHmacSha384: 48,
	types.MacAlgorithmSpecHmacSha512: 64,
}

// The lines are those of sha256sum: hexadecimal digits, two blanks, the name. A name with a line end or a backslash is
// written with \n, \r and \\, and the line then begins with a backslash.
var (
	escapeName   = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`)
	specialRunes = "\\\n\r"
)

func formatMACLine(tag []byte, name string) string {
	mark := ""
	if strings.ContainsAny(name, specialRunes) {
		mark, name = `\`, escapeName.Replace(name)
	}
	return mark + hex.EncodeToString(tag) + "  " + name + "\n"
}

// displayName is the name as it is shown to people: a checksum file that others wrote, or a directory, may hold any.
func displayName(name string) string {
	if strings.ContainsAny(name, specialRunes) {
		return `\` + visible(escapeName.Replace(name))
	}
	return visible(name)
}

// displayMACLine is formatMACLine for a terminal. Where the name does not show, no program could read the line back.
func displayMACLine(tag []byte, name string) string { return visibleLines(formatMACLine(tag, name)) }

// parseMACLine reads a line, without its end, whose MAC has the given length in bytes. A line that formatMACLine would
// not have written in this or the binary form (" *" before the name) is none.
func parseMACLine(line string, length int) (tag []byte, name string, ok bool) {
	line, escaped := strings.CutPrefix(line, `\`)
	digits := hex.EncodedLen(length)
	if length == 0 || len(line) < digits+3 || line[digits] != ' ' || line[digits+1] != ' ' && line[digits+1] != '*' {
		return nil, "", false
	}
	tag, err := hex.DecodeString(line[:digits])
	if err != nil {
		return nil, "", false
	}
	name = line[digits+2:]
	if escaped {
		name, ok = unescapeName(name)
		return tag, name, ok
	}
	return tag, name, !strings.Contains(name, "\x00")
}

func unescapeName(text string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			b.WriteByte(text[i])
			continue
		}
		i++
		if i == len(text) {
			return "", false
		}
		switch text[i] {
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case '\\':
			b.WriteByte('\\')
		default:
			return "", false
		}
	}
	return b.String(), !strings.Contains(b.String(), "\x00")
}
