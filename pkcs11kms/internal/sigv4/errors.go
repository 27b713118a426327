package sigv4

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Codes of Error: the names under which AWS reports them. Each is answered with status 400 by KMS.
const (
	CodeMissingAuthenticationToken = "MissingAuthenticationTokenException"
	CodeIncompleteSignature        = "IncompleteSignatureException"
	CodeInvalidSignature           = "InvalidSignatureException"
	CodeUnrecognizedClient         = "UnrecognizedClientException"
	CodeExpiredToken               = "ExpiredTokenException"
)

// Errors that a Lookup returns, wrapped or not. Verify answers them with an *Error.
var (
	// ErrUnknownKey says that the access key id does not exist or is not active, or that the session token is missing,
	// superfluous or wrong for it.
	ErrUnknownKey = errors.New("access key id or session token is not known")
	// ErrTokenExpired says that the temporary credentials were good and have expired.
	ErrTokenExpired = errors.New("session token has expired")
)

// Error is a refusal. Code and Message are meant for the client; they never hold the Authorization header, a signature or
// what was computed.
type Error struct {
	Code    string // one of the Code constants
	Message string // AWS's text where it is known, hence its capitals and full stops
	hint    string
}

// Error returns code and message.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Hint says what the sender of the request can do about it.
func (e *Error) Hint() string { return e.hint }

const (
	signWithSDK = "sign the request with an AWS SDK, the aws CLI or curl --aws-sigv4"
	checkClock  = "set the clocks of client and server by NTP"
	checkSecret = "check AWS_SECRET_ACCESS_KEY, and that no proxy changes signed headers, the Host header or the body"
	checkScope  = "set AWS_REGION to a region of the server, and sign for its service"
	checkKeyID  = "check AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN; the access key may have been deleted or made inactive"
	renewToken  = "get new temporary credentials"
)

func missingToken() *Error {
	return &Error{CodeMissingAuthenticationToken, "Missing Authentication Token", signWithSDK}
}

func incomplete(message string) *Error { return &Error{CodeIncompleteSignature, message, signWithSDK} }

func invalid(message, hint string) *Error { return &Error{CodeInvalidSignature, message, hint} }

func mismatch() *Error {
	return invalid("The request signature we calculated does not match the signature you provided. Check your AWS Secret "+
		"Access Key and signing method. Consult the service documentation for details.", checkSecret)
}

func unrecognized() *Error {
	return &Error{CodeUnrecognizedClient, "The security token included in the request is invalid.", checkKeyID}
}

func tokenExpired() *Error {
	return &Error{CodeExpiredToken, "The security token included in the request is expired", renewToken}
}

// missingParts names the parts that are not there. AWS appends the Authorization header, which would put a signature into
// the client's logs.
func missingParts(a authorization, dated bool) *Error {
	var missing []string
	for _, part := range []struct{ name, value string }{
		{"Credential", a.credential}, {"Signature", a.signature}, {"SignedHeaders", a.signedHeaders},
	} {
		if part.value == "" {
			missing = append(missing, "Authorization header requires '"+part.name+"' parameter.")
		}
	}
	if !dated {
		missing = append(missing, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
	}
	if len(missing) == 0 {
		return nil
	}
	return incomplete(strings.Join(missing, " "))
}

func expired(c *Claim, now time.Time, skew time.Duration) *Error {
	return invalid(fmt.Sprintf("Signature expired: %s is now earlier than %s (%s - %s)",
		c.timestamp, basic(now.Add(-skew)), basic(now), span(skew)), checkClock)
}

func notYetCurrent(c *Claim, now time.Time, skew time.Duration) *Error {
	return invalid(fmt.Sprintf("Signature not yet current: %s is still later than %s (%s + %s)",
		c.timestamp, basic(now.Add(skew)), basic(now), span(skew)), checkClock)
}

// basic writes a time as X-Amz-Date does.
func basic(t time.Time) string { return t.Format(basicFormat) }

func span(d time.Duration) string {
	if d%time.Minute == 0 {
		return fmt.Sprintf("%d min.", d/time.Minute)
	}
	return fmt.Sprintf("%d sec.", d/time.Second)
}
