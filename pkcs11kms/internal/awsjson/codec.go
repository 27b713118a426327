package awsjson

import (
	"bytes"
	"encoding/base64"
	"math"
	"reflect"
	"strconv"
	"time"
)

// boolCodec writes false too: an output's plain bool is a member that is always there.
type boolCodec struct{}

func (boolCodec) decode(s *scanner, v reflect.Value) error {
	isTrue := s.word("true")
	if !isTrue && !s.word("false") {
		return s.fail(wantBool)
	}
	v.SetBool(isTrue)
	return nil
}

func (boolCodec) append(dst []byte, v reflect.Value) []byte { return strconv.AppendBool(dst, v.Bool()) }
func (boolCodec) absent(reflect.Value) bool                 { return false }

type int32Codec struct{}

func (int32Codec) decode(s *scanner, v reflect.Value) error {
	literal, err := s.number(wantInteger)
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(string(literal), 10, 32)
	if err != nil {
		f, err := strconv.ParseFloat(string(literal), 64)
		if err != nil || f != math.Trunc(f) || f < math.MinInt32 || f > math.MaxInt32 {
			return s.fail(wantInteger)
		}
		n = int64(f)
	}
	v.SetInt(n)
	return nil
}

func (int32Codec) append(dst []byte, v reflect.Value) []byte {
	return strconv.AppendInt(dst, v.Int(), 10)
}
func (int32Codec) absent(reflect.Value) bool { return false }

// stringCodec is for strings and enumerations; known is nil for the former.
type stringCodec struct{ known map[string]string }

func (c stringCodec) decode(s *scanner, v reflect.Value) error {
	text, err := s.text(wantString)
	if err != nil {
		return err
	}
	value, ok := c.known[string(text)]
	if !ok {
		value = string(text)
	}
	v.SetString(value)
	return nil
}

func (stringCodec) append(dst []byte, v reflect.Value) []byte { return appendText(dst, v.String()) }
func (stringCodec) absent(v reflect.Value) bool               { return v.Len() == 0 }

// base64Strict refuses unused bits that are not zero. It still passes over line breaks.
var base64Strict = base64.StdEncoding.Strict()

type blobCodec struct{}

func (blobCodec) decode(s *scanner, v reflect.Value) error {
	text, err := s.text(wantString)
	if err != nil {
		return err
	}
	if bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0 {
		return s.fail(badBase64)
	}
	blob := make([]byte, base64Strict.DecodedLen(len(text)))
	n, err := base64Strict.Decode(blob, text)
	if err != nil {
		return s.fail(badBase64)
	}
	v.SetBytes(blob[:n])
	return nil
}

func (blobCodec) append(dst []byte, v reflect.Value) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, v.Bytes())
	return append(dst, '"')
}
func (blobCodec) absent(v reflect.Value) bool { return v.IsNil() }

// The first and the last second that time.Time's own text forms can express: years 1 to 9999.
const (
	minSeconds = -62135596800
	maxSeconds = 253402300799
)

type timeCodec struct{}

func (timeCodec) decode(s *scanner, v reflect.Value) error {
	literal, err := s.number(wantTimestamp)
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseFloat(string(literal), 64)
	if err != nil || seconds < minSeconds || seconds > maxSeconds {
		return s.fail(wantTimestamp)
	}
	*v.Addr().Interface().(*time.Time) = time.UnixMilli(int64(math.Round(seconds * 1000))).UTC()
	return nil
}

// append writes seconds with up to three decimals, as the service does: no float's rounding, no trailing zeros.
func (timeCodec) append(dst []byte, v reflect.Value) []byte {
	millis := v.Addr().Interface().(*time.Time).UnixMilli()
	if millis < 0 {
		dst = append(dst, '-')
		millis = -millis
	}
	dst = strconv.AppendInt(dst, millis/1000, 10)
	rest := millis % 1000
	if rest == 0 {
		return dst
	}
	dst = append(dst, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10))
	return bytes.TrimRight(dst, "0")
}
func (timeCodec) absent(reflect.Value) bool { return false }
