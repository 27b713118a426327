package sigv4

import (
	"net/http"
	"strings"
	"time"
)

const (
	algorithm   = "AWS4-HMAC-SHA256"
	terminator  = "aws4_request"
	basicFormat = "20060102T150405Z"
)

// Limits, well above what any SDK sends. They bound the work for a request before its sender is known.
const (
	maxAuthorization = 4 << 10  // bytes of the Authorization header
	maxSigned        = 32       // signed headers
	maxAccessKeyID   = 128      // IAM's own limit
	maxTarget        = 8 << 10  // bytes of path and query
	maxHeaders       = 64 << 10 // bytes of signed headers in canonical form
)

// Claim is what a request says about its signature. Nothing of it is proved until Verify has returned.
type Claim struct {
	AccessKeyID   string    // letters, digits and underscores
	Date          string    // of the credential scope: yyyymmdd
	Region        string    // of the credential scope
	Service       string    // of the credential scope
	SignedHeaders string    // lower case, sorted, joined by semicolons
	SessionToken  string    // X-Amz-Security-Token, empty without one
	Time          time.Time // X-Amz-Date, else Date

	timestamp  string // Time as it is signed
	scope      string // date/region/service/terminator
	terminator string
	signature  [32]byte
}

// Parse reads the claim of a request. It checks syntax alone; errors are of type *Error.
func Parse(r *http.Request) (*Claim, error) {
	auth, err := findAuthorization(r)
	if err != nil {
		return nil, err
	}
	date, err := dateHeader(r.Header)
	if err != nil {
		return nil, err
	}
	if missing := missingParts(auth, date != ""); missing != nil {
		return nil, missing
	}
	c := &Claim{SignedHeaders: auth.signedHeaders}
	if err := c.setTime(date); err != nil {
		return nil, err
	}
	if err := c.setCredential(auth.credential); err != nil {
		return nil, err
	}
	if err := checkNames(c.SignedHeaders); err != nil {
		return nil, err
	}
	// A signature that cannot be one is simply a wrong signature.
	if !decodeLowerHex(&c.signature, auth.signature) {
		return nil, mismatch()
	}
	c.SessionToken, err = single(r.Header, "X-Amz-Security-Token")
	return c, err
}

// authorization holds the parameters of the Authorization header, empty where missing.
type authorization struct {
	credential, signedHeaders, signature string
}

// findAuthorization takes the header form, and nothing beside it.
func findAuthorization(r *http.Request) (authorization, error) {
	header, err := single(r.Header, "Authorization")
	if err != nil {
		return authorization{}, err
	}
	path, query := target(r)
	if len(path)+len(query) > maxTarget {
		return authorization{}, incomplete("Path and query string are too long.")
	}
	switch presigned := hasAmzParameter(query); {
	case presigned && header != "":
		return authorization{}, invalid("Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP "+
			"header.", signWithSDK)
	case presigned:
		return authorization{}, incomplete("Presigned requests are not supported: send the signature in the " +
			"'Authorization' header.")
	case header == "":
		return authorization{}, missingToken()
	case len(header) > maxAuthorization:
		return authorization{}, incomplete("Authorization header is too long.")
	}
	return parseAuthorization(header)
}

func parseAuthorization(header string) (authorization, error) {
	scheme, parameters, _ := strings.Cut(header, " ")
	if scheme != algorithm {
		if strings.HasPrefix(scheme, "AWS4-") {
			return authorization{}, incomplete("Unsupported AWS 'algorithm' (only " + algorithm + " for now). ")
		}
		// Basic, Bearer and the like: AWS reports the parts of its own scheme as missing.
		return authorization{}, nil
	}
	return parseParameters(strings.Trim(parameters, " \t"))
}

func parseParameters(s string) (authorization, error) {
	var a authorization
	if s == "" {
		return a, nil
	}
	var seen struct{ credential, signedHeaders, signature bool }
	for part := range strings.SplitSeq(s, ",") {
		name, value, found := strings.Cut(strings.Trim(part, " \t"), "=")
		if !found {
			return a, incomplete("Invalid key=value pair (missing equal-sign) in Authorization header.")
		}
		field, again := &a.credential, &seen.credential
		switch name {
		case "Credential":
		case "SignedHeaders":
			field, again = &a.signedHeaders, &seen.signedHeaders
		case "Signature":
			field, again = &a.signature, &seen.signature
		default:
			return a, incomplete("Authorization header has an unknown parameter.")
		}
		if *again {
			return a, incomplete("Authorization header has the parameter '" + name + "' more than once.")
		}
		*field, *again = value, true
	}
	return a, nil
}

// setCredential splits keyid/date/region/service/terminator. What the scope says is judged by the Verifier.
func (c *Claim) setCredential(credential string) error {
	if strings.Count(credential, "/") != 4 {
		return incomplete("Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term")
	}
	c.AccessKeyID, c.scope, _ = strings.Cut(credential, "/")
	date, rest, _ := strings.Cut(c.scope, "/")
	region, rest, _ := strings.Cut(rest, "/")
	c.Date, c.Region = date, region
	c.Service, c.terminator, _ = strings.Cut(rest, "/")
	if !isDate(c.Date) {
		return incomplete("Date in Credential scope must be YYYYMMDD.")
	}
	// IAM gives out no other ids, so this one is unknown without a look-up, and it is fit for a log.
	if !isAccessKeyID(c.AccessKeyID) {
		return unrecognized()
	}
	return nil
}

func isDate(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return len(s) == len("20060102")
}

func isAccessKeyID(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= maxAccessKeyID
}

// checkNames accepts a list of header names in lower case, in order and without repetition.
func checkNames(list string) error {
	if strings.Count(list, ";") >= maxSigned {
		return incomplete("Authorization header has too many 'SignedHeaders'.")
	}
	previous := ""
	for name := range strings.SplitSeq(list, ";") {
		if name <= previous || !isLowerToken(name) {
			return incomplete("Authorization header requires 'SignedHeaders' to be header names in lower case, sorted, " +
				"without repetition, delimited by semicolons.")
		}
		previous = name
	}
	return nil
}

// lowerToken holds the characters of a header name (RFC 9110, token) but capitals.
var lowerToken = func() (set [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") {
		set[c] = true
	}
	return set
}()

func isLowerToken(s string) bool {
	for i := range len(s) {
		if !lowerToken[s[i]] {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// dateHeader returns the header that dates the signature: X-Amz-Date, else Date.
func dateHeader(h http.Header) (string, error) {
	date, err := single(h, "X-Amz-Date")
	if err != nil || date != "" {
		return date, err
	}
	return single(h, "Date")
}

// setTime takes the form of X-Amz-Date or the usual form of Date. Signers put the first into the string to sign even
// when they send the second.
func (c *Claim) setTime(date string) error {
	if len(date) == len(basicFormat) {
		t, err := time.Parse(basicFormat, date)
		if err == nil {
			c.Time, c.timestamp = t, date
			return nil
		}
	}
	t, err := time.Parse(http.TimeFormat, date)
	if err != nil {
		return incomplete("Date must be in ISO-8601 'basic format'. See http://en.wikipedia.org/wiki/ISO_8601")
	}
	c.Time, c.timestamp = t, basic(t)
	return nil
}

// single returns the value of a header that may occur once, and nothing if it does not occur.
func single(h http.Header, key string) (string, error) {
	switch values := h[key]; len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	default:
		return "", repeated(strings.ToLower(key))
	}
}

func repeated(name string) *Error {
	return incomplete("Header '" + name + "' must not occur more than once.")
}

// decodeLowerHex fills dst from exactly so many lower-case digits: one signature has one spelling.
func decodeLowerHex(dst *[32]byte, s string) bool {
	if len(s) != 2*len(dst) {
		return false
	}
	for i := range dst {
		high, low := lowerDigit(s[2*i]), lowerDigit(s[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}

// lowerDigit returns the value of a hexadecimal digit in lower case, and 16 for anything else.
func lowerDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 16
}
