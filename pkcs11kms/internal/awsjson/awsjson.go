package awsjson

import (
	"fmt"
	"reflect"
	"unicode/utf8"
)

// Decode reads a request body into the struct that into points to, normally an input of the SDK's kms package with
// every member unset; the package comment has the rules. Nothing in the struct refers to body afterwards. An error in
// the body is a [*SerializationError]; the struct then holds part of the body and must be thrown away. A body that is right but
// says more than the struct can hold is an [*EmptyEnumError]; the struct then holds the rest of it.
func Decode(body []byte, into any) error {
	c, v, err := target(into)
	if err != nil {
		return fmt.Errorf("decode body into %T: %w", into, err)
	}
	if len(body) == 0 {
		return nil
	}
	s := scanner{data: body}
	if !utf8.Valid(body) {
		return s.fail(badUTF8)
	}
	if err := c.decode(&s, v); err != nil {
		return err
	}
	if s.next(); s.pos < len(body) {
		return s.fail(trailingData)
	}
	if len(s.emptyEnums) > 0 {
		return &EmptyEnumError{Members: s.emptyEnums}
	}
	return nil
}

// firstSize holds the answers to GenerateMac and VerifyMac without growing.
const firstSize = 256

// Encode returns the response body for the struct that out points to, normally an output of the SDK's kms package; see
// [Append]. An output without members is {}: which operations answer with no body at all is the server's knowledge.
func Encode(out any) ([]byte, error) {
	return Append(make([]byte, 0, firstSize), out)
}

// Append appends the response body for the struct that out points to. Members are left out when they are nil or an
// empty string that is no pointer; empty lists, maps and blobs that are not nil are written, and so is every bool that
// is no pointer. ResultMetadata is left out. Members stand in the order the real service was seen to use, where that is
// known, else in the order of the fields. An error is a type or a nil that the protocol cannot express.
func Append(dst []byte, out any) ([]byte, error) {
	c, v, err := target(out)
	if err != nil {
		return dst, fmt.Errorf("encode %T: %w", out, err)
	}
	return c.append(dst, v), nil
}

// EncodeError returns the body of an error response. code is the bare name of the error's shape, such as
// NotFoundException; a nil message gives a body without that member, as some errors of the real service have it.
func EncodeError(code string, message *string) []byte {
	size := len(`{"__type":"","message":""}`) + len(code)
	if message != nil {
		size += len(*message)
	}
	body := append(make([]byte, 0, size), `{"__type":`...)
	body = appendText(body, code)
	if message != nil {
		body = appendText(append(body, `,"message":`...), *message)
	}
	return append(body, '}')
}

// target returns the struct that p points to, with its plan.
func target(p any) (*structCodec, reflect.Value, error) {
	v := reflect.ValueOf(p)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return nil, v, errNotStruct
	}
	c, err := planOf(v.Type().Elem())
	return c, v.Elem(), err
}
