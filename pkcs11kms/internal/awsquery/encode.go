package awsquery

import (
	"bytes"
	"encoding/xml"
	"reflect"
	"strconv"
	"time"
)

// Encode writes the answer to a call: XResponse with XResult, unless out is nil, and the request's id. Members are the exported fields of
// the struct that out points to, in their order: strings, integers, truth values and times, structs, and lists of strings and structs.
// Fields of embedded structs count as the struct's. Nil pointers, nil lists, the zero time and empty strings that no pointer points to
// are left out.
func Encode[Out any](action, namespace, requestID string, out *Out) []byte {
	w := writer{}
	w.begin(action+"Response", namespace)
	if out != nil {
		w.begin(action+"Result", "")
		w.members(reflect.ValueOf(out).Elem())
		w.end(action + "Result")
	}
	w.begin("ResponseMetadata", "")
	w.text("RequestId", requestID)
	w.end("ResponseMetadata")
	w.end(action + "Response")
	return w.Bytes()
}

// EncodeError writes an error. faults says whether the client or the service is to blame.
func EncodeError(namespace, requestID string, clientsFault bool, code string, message *string) []byte {
	w, kind := writer{}, "Receiver"
	if clientsFault {
		kind = "Sender"
	}
	w.begin("ErrorResponse", namespace)
	w.begin("Error", "")
	w.text("Type", kind)
	w.text("Code", code)
	if message != nil {
		w.text("Message", *message)
	}
	w.end("Error")
	w.text("RequestId", requestID)
	w.end("ErrorResponse")
	return w.Bytes()
}

type writer struct{ bytes.Buffer }

func (w *writer) begin(name, namespace string) {
	w.WriteString("<" + name)
	if namespace != "" {
		w.WriteString(` xmlns="` + namespace + `"`)
	}
	w.WriteByte('>')
}

func (w *writer) end(name string) { w.WriteString("</" + name + ">") }

func (w *writer) text(name, text string) {
	w.begin(name, "")
	_ = xml.EscapeText(w, []byte(text)) // writing to memory never fails
	w.end(name)
}

func (w *writer) members(v reflect.Value) {
	for i := range v.NumField() {
		if v.Type().Field(i).Anonymous {
			w.members(v.Field(i))
			continue
		}
		w.value(v.Type().Field(i).Name, v.Field(i))
	}
}

func (w *writer) value(name string, v reflect.Value) {
	pointed := v.Kind() == reflect.Pointer
	if pointed {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	if at, ok := v.Interface().(time.Time); ok {
		if !at.IsZero() {
			w.text(name, at.UTC().Format(time.RFC3339))
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		if pointed || v.String() != "" {
			w.text(name, v.String())
		}
	case reflect.Bool:
		w.text(name, strconv.FormatBool(v.Bool()))
	case reflect.Int, reflect.Int32, reflect.Int64:
		w.text(name, strconv.FormatInt(v.Int(), 10))
	case reflect.Struct:
		w.begin(name, "")
		w.members(v)
		w.end(name)
	case reflect.Slice:
		w.list(name, v)
	default:
		panic("awsquery: no member of an output has the type " + v.Type().String())
	}
}

func (w *writer) list(name string, v reflect.Value) {
	if v.IsNil() {
		return
	}
	w.begin(name, "")
	for i := range v.Len() {
		w.value("member", v.Index(i).Addr())
	}
	w.end(name)
}
