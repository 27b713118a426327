package awsjson_test

import (
	"math/rand/v2"
	"reflect"
	"time"
)

// pieces are what random texts are made of: one of each kind that JSON treats in a way of its own.
var pieces = []string{
	"a", "Z", "0", "/", " ", `"`, `\`, "\n", "\r", "\t", "\b", "\f", "\x00", "\x1f", "\x7f", "<", ">", "&", "é", "€",
	"😀", "\u2028", "\u2029", "\uFFFD", "\uFEFF", `\u0041`, "null", "alias/", "arn:aws:kms:",
}

// random fills values of the SDK's types, the same for the same seed.
type random struct {
	*rand.Rand
	tick int64 // every time is a multiple of so many milliseconds
}

func newRandom(seed uint64) random { return random{rand.New(rand.NewPCG(seed, 0)), 1} }

// fill sets v and all it contains, but for the members of structures that absent leaves out. Texts are never empty,
// since the SDK's structs have one value for an enumeration that is empty and one that is absent.
func (r random) fill(v reflect.Value, absent func() bool) {
	switch v.Interface().(type) {
	case time.Time:
		// The range in which the SDK's own conversion does not overflow: it counts nanoseconds.
		v.Set(reflect.ValueOf(time.UnixMilli((r.Int64N(4e12) - 1e12) / r.tick * r.tick).UTC()))
		return
	case []byte:
		v.SetBytes(r.bytes())
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int32:
		v.SetInt(int64(int32(r.Uint32())))
	case reflect.String:
		v.SetString(r.text())
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.fill(v.Elem(), absent)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(4), 4))
		for i := range v.Len() {
			r.fill(v.Index(i), absent)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(4) {
			v.SetMapIndex(reflect.ValueOf(r.text()), reflect.ValueOf(r.text()))
		}
	case reflect.Struct:
		r.fillStruct(v, absent)
	}
}

func (r random) fillStruct(v reflect.Value, absent func() bool) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.IsExported() && f.Name != "ResultMetadata" && !absent() {
			r.fill(v.Field(i), absent)
		}
	}
}

func (r random) bytes() []byte {
	b := make([]byte, r.IntN(70))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func (r random) text() string {
	text := pieces[r.IntN(len(pieces))]
	for range r.IntN(12) {
		text += pieces[r.IntN(len(pieces))]
	}
	return text
}
