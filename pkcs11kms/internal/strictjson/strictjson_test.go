package strictjson_test

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/strictjson"
)

func TestObject(t *testing.T) {
	for _, doc := range []string{
		`{}`, " {\"a\":1,\n\"b\":[1,{\"a\":2},{\"a\":3}],\"c\":{\"a\":\"a\",\"b\":\"a\"}} ", `{"a":"a","b":"b"}`, `{"a":1e999,"b":2}`,
	} {
		require.NoError(t, strictjson.Object([]byte(doc)), doc)
	}
	for doc, text := range map[string]string{
		"":                           "no JSON",
		`{"a":1} x`:                  "no JSON",
		`{"a":1}{}`:                  "no JSON",
		`{"a":1,}`:                   "no JSON",
		"\ufeff{}":                   "no JSON",
		`[]`:                         "no JSON object",
		`"{}"`:                       "no JSON object",
		`null`:                       "no JSON object",
		"{\"a\":\"\xff\"}":           "no UTF-8",
		`{"a":1,"a":1}`:              "twice",
		`{"a":1,"\u0061":1}`:         "twice",
		`{"b":[{"a":{},"a":{}}]}`:    "twice",
		`{"b":1e999,"a":1,"a":2}`:    "twice",
		`{"a":{"a":1},"b":[],"a":2}`: "twice",
	} {
		require.ErrorContains(t, strictjson.Object([]byte(doc)), text, doc)
	}
}

func TestDecode(t *testing.T) {
	var got map[string]any
	require.NoError(t, strictjson.Decode([]byte(`{"n":12345678901234567890.0}`), &got))
	require.Equal(t, map[string]any{"n": json.Number("12345678901234567890.0")}, got)
	require.ErrorContains(t, strictjson.Decode([]byte(`{"n":1,"n":2}`), &got), "twice")
	var header struct {
		Alg string `json:"alg"`
	}
	err := strictjson.Decode([]byte(`{"alg":"secret"}`), &struct {
		Alg int `json:"alg"`
	}{})
	require.EqualError(t, err, `a JSON object whose member "alg" is of the wrong type`)
	require.NoError(t, strictjson.Decode([]byte(`{"alg":"x"}`), &header))
	for _, target := range []any{&struct{ Alg time.Time }{}, &struct{ Alg json.Number }{}, &struct{ Alg netip.Addr }{}} {
		require.EqualError(t, strictjson.Decode([]byte(`{"alg":"secret"}`), target), "a JSON object with a member of an unexpected form")
	}
}

func TestMembers(t *testing.T) {
	got, err := strictjson.Members([]byte(` {"a":{"b":1,"b":2},"c":[1, 2]} `))
	require.NoError(t, err)
	require.Equal(t, map[string]json.RawMessage{"a": json.RawMessage(`{"b":1,"b":2}`), "c": json.RawMessage(`[1, 2]`)}, got)
	for doc, text := range map[string]string{
		"": "no JSON", `{"a":1}{}`: "no JSON", `[]`: "no JSON object", `"{}"`: "no JSON object", `null`: "no JSON object",
		"{\"a\":{\"b\":\"\xff\"}}": "no UTF-8", `{"a":1,"b":2,"\u0061":1}`: "twice",
	} {
		_, err := strictjson.Members([]byte(doc))
		require.ErrorContains(t, err, text, doc)
	}
}
