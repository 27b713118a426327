package awsjson

import (
	"errors"
	"strings"
)

// What can be wrong with a body. The texts go to clients and logs, so none of them quotes the input.
const (
	wantObject    = "expected an object"
	wantList      = "expected a list"
	wantString    = "expected a string"
	wantBool      = "expected true or false"
	wantInteger   = "expected an integer of 32 bits"
	wantTimestamp = "expected a timestamp in seconds"
	wantElement   = "expected a value, found null"
	wantName      = "expected a member name"
	wantColon     = "expected a colon after a member name"
	wantComma     = "expected a comma or the end of a list or object"
	wantValue     = "expected a value"
	badBase64     = "invalid base64"
	badUTF8       = "invalid UTF-8"
	badNumber     = "invalid number"
	badEscape     = "invalid escape sequence"
	badSurrogate  = "surrogate without its partner"
	controlChar   = "control character in a string"
	openString    = "string without an end"
	tooDeep       = "nested too deeply"
	trailingData  = "data after the end of the object"
)

var errNotStruct = errors.New("expected a non-nil pointer to a structure")

// SerializationError says that a body is not what the operation takes: malformed JSON, or a member of the wrong type.
// Its wire form is SerializationException. It holds nothing of the body's text, so that it may be logged and sent. It
// is a plain value, safe for concurrent reading.
type SerializationError struct {
	Member string // path of the member by the model's names, such as Tags.TagKey; empty outside any known member
	Reason string // one of a fixed set of texts
	Offset int    // where in the body the problem was found, in bytes
}

// Error returns the reason with the member's path, in a form that suits the message of a SerializationException.
func (e *SerializationError) Error() string {
	if e.Member == "" {
		return "decode body: " + e.Reason
	}
	return "decode " + e.Member + ": " + e.Reason
}

// EmptyEnumError says that a well-formed body gives an enumeration the empty string as its value, which the SDK's structs hold
// as no value at all. The real service refuses it like every other string that is none of the enumeration's.
type EmptyEnumError struct {
	Members []string // paths by the model's names, such as Recipient.KeyEncryptionAlgorithm
}

// Error names the members.
func (e *EmptyEnumError) Error() string {
	return "decode: empty string in " + strings.Join(e.Members, ", ")
}

// under puts a member's name in front of the path that err carries. nil stays nil.
func under(name string, err error) error {
	bad, ok := err.(*SerializationError)
	if !ok {
		return err
	}
	if bad.Member != "" {
		name += "." + bad.Member
	}
	bad.Member = name
	return bad
}
