package sigv4

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
)

// target returns path and query as the client sent them. net/http decodes r.URL, and signers encode what is on the wire.
func target(r *http.Request) (path, query string) {
	if strings.HasPrefix(r.RequestURI, "/") {
		path, query, _ = strings.Cut(r.RequestURI, "?")
		return path, query
	}
	// The absolute form, or a request that was made in memory.
	return r.URL.EscapedPath(), r.URL.RawQuery
}

// appendCanonical appends the canonical request up to and without the payload hash.
func appendCanonical(dst []byte, r *http.Request, signed *signedHeaders) ([]byte, error) {
	path, query := target(r)
	dst = append(dst, r.Method...)
	dst = appendPath(append(dst, '\n'), path)
	dst, err := appendQuery(append(dst, '\n'), query)
	if err != nil {
		return dst, err
	}
	dst, err = signed.append(append(dst, '\n'))
	if err != nil {
		return dst, err
	}
	dst = append(dst, '\n')
	dst = append(dst, signed.list...)
	return append(dst, '\n'), nil
}

// appendPath removes empty and dot segments, keeps a slash at the end, and encodes once more what is on the wire.
func appendPath(dst []byte, path string) []byte {
	if path == "/" {
		return append(dst, '/')
	}
	var segments []string
	for segment := range strings.SplitSeq(path, "/") {
		switch segment {
		case "", ".":
		case "..":
			segments = segments[:max(len(segments)-1, 0)]
		default:
			segments = append(segments, segment)
		}
	}
	for _, segment := range segments {
		dst = append(dst, '/')
		for i := range len(segment) {
			dst = appendByte(dst, segment[i])
		}
	}
	if len(segments) == 0 || strings.HasSuffix(path, "/") {
		dst = append(dst, '/')
	}
	return dst
}

type parameter struct{ name, value string }

// appendQuery encodes names and values uniformly, then sorts. A plus sign stands for itself: clients write a space as %20.
func appendQuery(dst []byte, query string) ([]byte, error) {
	if query == "" {
		return dst, nil
	}
	var parameters []parameter
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		p := parameter{}
		var okName, okValue bool
		p.name, okName = normalizeEncoding(name)
		p.value, okValue = normalizeEncoding(value)
		if !okName || !okValue {
			return dst, incomplete("Query string has an invalid percent-encoding.")
		}
		parameters = append(parameters, p)
	}
	slices.SortFunc(parameters, func(a, b parameter) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.value, b.value))
	})
	for i, p := range parameters {
		if i > 0 {
			dst = append(dst, '&')
		}
		dst = append(dst, p.name...)
		dst = append(dst, '=')
		dst = append(dst, p.value...)
	}
	return dst, nil
}

// hasAmzParameter reports whether the query string holds a parameter of a presigned request. Case and encoding are
// disregarded: a request that tries to hide one is refused as well.
func hasAmzParameter(query string) bool {
	if query == "" {
		return false
	}
	for pair := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if decoded, ok := normalizeEncoding(name); ok && hasAmzPrefix(decoded) {
			return true
		}
	}
	return false
}

// normalizeEncoding percent-encodes everything but unreserved characters, and those not. It reports false when a percent
// sign has no two digits after it.
func normalizeEncoding(s string) (string, bool) {
	dst := make([]byte, 0, len(s)+16)
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return "", false
			}
			high, low := lowerDigit(lower(s[i+1])), lowerDigit(lower(s[i+2]))
			if high > 15 || low > 15 {
				return "", false
			}
			c = high<<4 | low
			i += 2
		}
		dst = appendByte(dst, c)
	}
	return string(dst), true
}

func appendByte(dst []byte, c byte) []byte {
	const digits = "0123456789ABCDEF"
	if isAlphanumeric(c) || c == '-' || c == '_' || c == '.' || c == '~' {
		return append(dst, c)
	}
	return append(dst, '%', digits[c>>4], digits[c&15])
}
