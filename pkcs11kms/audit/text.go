package audit

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// appendText appends s as a JSON string, byte for byte as encoding/json does.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' {
				i++
				continue
			}
			b = appendEscape(append(b, s[start:i]...), c)
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(append(b, s[start:i]...), `\ufffd`...)
			start = i + size
		case r == '\u2028' || r == '\u2029':
			b = append(append(b, s[start:i]...), `\u202`...)
			b = append(b, hexDigits[r&0xf])
			start = i + size
		}
		i += size
	}
	return append(append(b, s[start:]...), '"')
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, '\\', 'b')
	case '\f':
		return append(b, '\\', 'f')
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}

// cut returns at most so many bytes of s, and no half of a character.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// A plan is which fields of a struct are shown, and by which names. It is immutable.
type plan struct {
	recorded []string // what it was made from; nil: all fields
	members  []planned
}

type planned struct {
	name  string // in quotation marks, with a colon
	index int
}

// plans maps the reflect.Type of a struct to its *plan. Two goroutines may make the same plan at once, and either serves.
var plans, wholePlans sync.Map

// planOf returns the plan for the recorded fields of a struct. Each type of input belongs to one operation, so that one plan a type is
// remembered.
func planOf(t reflect.Type, recorded []string) *plan {
	if p, ok := plans.Load(t); ok {
		if p := p.(*plan); len(p.recorded) == len(recorded) && (len(recorded) == 0 || &p.recorded[0] == &recorded[0]) {
			return p
		}
	}
	p := &plan{recorded: recorded}
	for _, name := range recorded {
		if field, ok := t.FieldByName(upperCamel(name)); ok && len(field.Index) == 1 && field.IsExported() {
			p.members = append(p.members, planned{strconv.Quote(name) + ":", field.Index[0]})
		}
	}
	plans.Store(t, p)
	return p
}

// wholePlanOf returns the plan that shows all fields.
func wholePlanOf(t reflect.Type) *plan {
	if p, ok := wholePlans.Load(t); ok {
		return p.(*plan)
	}
	p := &plan{}
	for i := range t.NumField() {
		if field := t.Field(i); field.IsExported() && field.Name != "ResultMetadata" {
			p.members = append(p.members, planned{strconv.Quote(lowerCamel(field.Name)) + ":", i})
		}
	}
	wholePlans.Store(t, p)
	return p
}

func upperCamel(name string) string {
	first, size := utf8.DecodeRuneInString(name)
	return string(unicode.ToUpper(first)) + name[size:]
}

func lowerCamel(name string) string {
	first, size := utf8.DecodeRuneInString(name)
	return string(unicode.ToLower(first)) + name[size:]
}

// appendStruct appends the members of a struct that have a value, in braces.
func (p *plan) appendStruct(b []byte, v reflect.Value) []byte {
	b = append(b, '{')
	first := true
	for i := range p.members {
		m := &p.members[i]
		f := v.Field(m.index)
		if f.Kind() != reflect.Bool && f.IsZero() || !shown(f.Type()) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendValue(append(b, m.name...), f)
	}
	return append(b, '}')
}

// shown tells whether a record can show values of a type. Bytes are messages, MACs and material: no list of names makes them shown.
func shown(t reflect.Type) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		return t.Elem().Kind() != reflect.Uint8
	case reflect.Chan, reflect.Func, reflect.UnsafePointer, reflect.Complex64, reflect.Complex128, reflect.Uintptr:
		return false
	}
	return true
}

// times are written as CloudTrail does inside of parameters.
const innerTime = "Jan 2, 2006, 3:04:05 PM"

func appendValue(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(b, "null"...)
		}
		return appendValue(b, v.Elem())
	case reflect.String:
		return appendText(b, v.String())
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(b, v.Int(), 10)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(b, v.Uint(), 10)
	case reflect.Float32, reflect.Float64:
		return strconv.AppendFloat(b, v.Float(), 'g', -1, 64)
	case reflect.Struct:
		if t, ok := v.Interface().(time.Time); ok {
			return appendText(b, t.UTC().Format(innerTime))
		}
		return wholePlanOf(v.Type()).appendStruct(b, v)
	case reflect.Slice, reflect.Array:
		if shown(v.Type()) {
			return appendList(b, v)
		}
	case reflect.Map:
		if v.Type().Key().Kind() == reflect.String {
			return appendMap(b, v)
		}
	}
	return append(b, "null"...)
}

func appendList(b []byte, v reflect.Value) []byte {
	b = append(b, '[')
	for i := range v.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendValue(b, v.Index(i))
	}
	return append(b, ']')
}

func appendMap(b []byte, v reflect.Value) []byte {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(x, y reflect.Value) int { return strings.Compare(x.String(), y.String()) })
	b = append(b, '{')
	for i, key := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendText(b, key.String()), ':')
		b = appendValue(b, v.MapIndex(key))
	}
	return append(b, '}')
}

// appendMembers appends the recorded members of an input or output: a pointer to a struct, a map by names, or nil.
func appendMembers(b []byte, members any, recorded []string) []byte {
	start := len(b)
	switch m := members.(type) {
	case nil:
	case map[string]any:
		b = append(b, '{')
		for _, name := range recorded {
			if v := reflect.ValueOf(m[name]); v.IsValid() && shown(v.Type()) && (v.Kind() == reflect.Bool || !v.IsZero()) {
				if len(b) > start+1 {
					b = append(b, ',')
				}
				b = appendValue(append(appendText(b, name), ':'), v)
			}
		}
		b = append(b, '}')
	default:
		if v := reflect.ValueOf(members); v.Kind() == reflect.Pointer && !v.IsNil() && v.Elem().Kind() == reflect.Struct {
			b = planOf(v.Elem().Type(), recorded).appendStruct(b, v.Elem())
		}
	}
	switch n := len(b) - start; {
	case n <= len("{}"):
		return append(b[:start], "null"...)
	case n > maxField:
		b = append(b[:start], `{"omitted":true,"originalSize":`...)
		return append(strconv.AppendInt(b, int64(n), 10), `,"reason":"the field is too large"}`...)
	}
	return b
}

// appendAny appends a map of plain values.
func appendAny(b []byte, m map[string]any) []byte { return appendValue(b, reflect.ValueOf(m)) }
