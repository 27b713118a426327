package audit

import (
	"bytes"
	"encoding/json"
	"strings"
)

// A term is something that records are searched by: what it is, in one letter, and the text. An index knows the terms of the records of a
// part of a file. It may know more of them than a search finds, and never fewer.
const (
	eventNameTerm = 'n'
	keyTerm       = 'k' // what the ARN of a key or alias ends with, or of another resource
	principalTerm = 'p' // what the ARN of a principal ends with, the name of a user, or an access key id
	errorTerm     = 'e' // without "Exception"; empty: there is an error
	eventIDTerm   = 'i'
	sourceTerm    = 's'
	typeTerm      = 't' // of a resource
)

// termsOf calls use with the terms of a record. A term is good until use returns.
func termsOf(line []byte, use func(term []byte)) {
	var b []byte
	add := func(kind byte, text string) {
		b = append(append(b[:0], kind), text...)
		use(b)
	}
	members(line, func(name, value []byte) {
		switch string(name) {
		case "eventName":
			add(eventNameTerm, textOf(value))
		case "eventID":
			add(eventIDTerm, textOf(value))
		case "eventSource":
			add(sourceTerm, textOf(value))
		case "type":
			add(typeTerm, textOf(value))
		case "keyId", "targetKeyId", "destinationKeyId", "aliasName", "ARN":
			text := textOf(value)
			add(keyTerm, bare(text))
			if name := lastOf(text); name != bare(text) { // of users and roles
				add(keyTerm, name)
			}
		case "arn", "userName", "accessKeyId":
			add(principalTerm, lastOf(textOf(value)))
		case "errorCode":
			add(errorTerm, "")
			add(errorTerm, strings.TrimSuffix(textOf(value), "Exception"))
		}
	})
}

// terms are those that each record has which a query asks for.
func (q Query) terms() (terms [][]byte) {
	add := func(kind byte, text string) { terms = append(terms, append([]byte{kind}, text...)) }
	for _, t := range []struct {
		kind byte
		text string
	}{
		{eventNameTerm, q.EventName}, {keyTerm, bare(q.KeyID)}, {principalTerm, lastOf(q.Principal)}, {eventIDTerm, q.EventID},
		{sourceTerm, q.EventSource}, {principalTerm, q.Username}, {principalTerm, q.AccessKeyID}, {typeTerm, q.ResourceType},
		{keyTerm, bare(q.ResourceName)},
	} {
		if t.text != "" {
			add(t.kind, t.text)
		}
	}
	switch q.ErrorCode {
	case "":
	case "any":
		add(errorTerm, "")
	default:
		add(errorTerm, strings.TrimSuffix(q.ErrorCode, "Exception"))
	}
	return terms
}

// lastOf is what an ARN of a principal ends with: its name, without its path.
func lastOf(arn string) string { return arn[strings.LastIndexAny(arn, ":/")+1:] }

// textOf is what stands between quotation marks.
func textOf(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	var text string
	_ = json.Unmarshal(append(append([]byte{'"'}, raw...), '"'), &text) // which fails for what is no record
	return text
}

// members calls use with the name of each member of a line's objects, however deep, that is a text, and with that text as it is written.
// Parsing the line would take ten times as long.
func members(line []byte, use func(name, value []byte)) {
	var name []byte // of the member whose value comes next
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '"':
			end := endOfText(line, i+1)
			if end < 0 {
				return
			}
			text := line[i+1 : end]
			i = end
			if rest := bytes.TrimLeft(line[end+1:], " \t"); len(rest) > 0 && rest[0] == ':' {
				name = text
				i = len(line) - len(rest)
			} else if name != nil {
				use(name, text)
				name = nil
			}
		case ' ', '\t':
		default: // the value is no text
			name = nil
		}
	}
}

// endOfText is where the text ends that goes on at a place; negative: nowhere.
func endOfText(line []byte, at int) int {
	for {
		n := bytes.IndexByte(line[at:], '"')
		if n < 0 {
			return -1
		}
		at += n
		before := line[:at]
		if (len(before)-len(bytes.TrimRight(before, `\`)))%2 == 0 {
			return at
		}
		at++
	}
}
