package sigv4

import (
	"net/http"
	"strings"
)

const hostName = "host"

// signedHeaders pairs the names of a claim with the values of the request. It has room for all that a claim may name, so
// that it needs no memory of its own.
type signedHeaders struct {
	list   string
	names  [maxSigned]string
	values [maxSigned][]string
	n      int
	host   string // net/http's server keeps Host apart from the other headers
}

// collect finds the value of every signed header, and refuses the request if one is missing or one that matters is not
// signed. The list has passed checkNames.
func (s *signedHeaders) collect(r *http.Request, list string) error {
	s.list = list
	for name := range strings.SplitSeq(list, ";") {
		s.names[s.n] = name
		s.n++
	}
	s.host = r.Host
	if _, found := s.find(hostName); !found {
		return invalid("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.", signWithSDK)
	}
	if err := s.collectAll(r.Header); err != nil {
		return err
	}
	for i, name := range s.names[:s.n] {
		if s.values[i] == nil && (name != hostName || s.host == "") {
			return invalid("'"+name+"' is a 'SignedHeader' in the AWS Authorization but not a header of the request.", checkSecret)
		}
	}
	return nil
}

func (s *signedHeaders) collectAll(h http.Header) error {
	unsigned := ""
	for key, values := range h {
		if len(values) == 0 {
			continue
		}
		i, found := s.find(key)
		amz := hasAmzPrefix(key)
		switch {
		case found && (s.values[i] != nil || s.names[i] == hostName || amz && len(values) > 1):
			return repeated(s.names[i])
		case found:
			s.values[i] = values
		case amz && (unsigned == "" || key < unsigned):
			// The first in order, as the order of a map would give a different answer each time.
			unsigned = key
		}
	}
	if unsigned != "" {
		return invalid("'"+strings.ToLower(unsigned)+"' must be a 'SignedHeader' in the AWS Authorization.", signWithSDK)
	}
	return nil
}

// find returns the position of a header, whose key may be in any case. Lengths tell most names apart.
func (s *signedHeaders) find(key string) (int, bool) {
	for i, name := range s.names[:s.n] {
		if len(name) == len(key) && equalLower(name, key) {
			return i, true
		}
	}
	return 0, false
}

// equalLower compares a name in lower case with as many bytes of a key in any.
func equalLower(name, key string) bool {
	for i := range len(name) {
		if name[i] != lower(key[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func hasAmzPrefix(key string) bool {
	const prefix = "x-amz-"
	return len(key) >= len(prefix) && equalLower(prefix, key)
}

// append appends a line for each signed header.
func (s *signedHeaders) append(dst []byte) ([]byte, error) {
	start := len(dst)
	for i, name := range s.names[:s.n] {
		dst = append(dst, name...)
		if name == hostName {
			dst = append(appendCollapsed(append(dst, ':'), s.host), '\n')
			continue
		}
		separator := byte(':')
		for _, value := range s.values[i] {
			// net/http lets no line break through. If it did, one header could pass for two.
			if strings.ContainsAny(value, "\r\n") || len(dst)-start+len(value) > maxHeaders {
				return dst, incomplete("Signed headers are too long or hold a line break.")
			}
			dst = appendCollapsed(append(dst, separator), value)
			separator = ','
		}
		dst = append(dst, '\n')
	}
	return dst, nil
}

// appendCollapsed appends a value without white space around it and with runs of it inside as one space, as botocore and most
// signers have it: a tab is white space.
func appendCollapsed(dst []byte, value string) []byte {
	value = strings.Trim(value, blanks)
	if strings.IndexByte(value, '\t') < 0 && !strings.Contains(value, "  ") {
		return append(dst, value...)
	}
	for {
		i := strings.IndexAny(value, blanks)
		if i < 0 {
			return append(dst, value...)
		}
		dst = append(append(dst, value[:i]...), ' ')
		value = strings.TrimLeft(value[i:], blanks)
	}
}

const blanks = " \t"
