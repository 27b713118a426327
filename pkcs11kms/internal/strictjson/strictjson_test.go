package strictjson_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/strictjson"
)

func TestObject(t *testing.T) {
	for _, doc := range []string{
		`{}`, " {\"a\":1,\n\"b\":[1,{\"a\":2},{\"a\":3}],\"c\":{\"a\":\"a\",\"b\":\"a\"}} ", `{"a":"a","b":"b"}`, `{"a":1e999,"b":2}`,
		`{"a":"\ud83d\ude00\uD83D\uDE00","b\u00e9":"\\ud800 \\\\ud800 \u0000 \\"}`,
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
		`{"a":"\ud800"}`:             "half a surrogate pair",
		`{"a":"x\uDFFFx"}`:           "half a surrogate pair",
		`{"a":"\ude00\ud83d"}`:       "half a surrogate pair",
		`{"a":"\ud83d\ud83d\ude00"}`: "half a surrogate pair",
		`{"a":"\ud83d\u0041"}`:       "half a surrogate pair",
		`{"a":"\ud83d\n\ude00"}`:     "half a surrogate pair",
		`{"a":["\\\ud83d"]}`:         "half a surrogate pair",
		`{"\ud83d":1}`:               "half a surrogate pair",
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

// FuzzCheck holds Check to what it promises: a document that passes means the same to every reader, so a second one that is
// made of what encoding/json read passes as well and reads alike, without a character that stands for a broken one.
func FuzzCheck(f *testing.F) {
	for _, doc := range []string{`{"a":[1,{"b":null}],"c":"\ud83d\ude00"}`, `{"a":"\ud83d"}`, `{"a":1,"\u0061":2}`, `"\\ud800\ufffd"`,
		"\"\xff\"", `[1e999,-0.5E-3,true]`} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if strictjson.Check(doc) != nil {
			return
		}
		read := func(doc []byte) (value any) {
			dec := json.NewDecoder(bytes.NewReader(doc))
			dec.UseNumber()
			require.NoError(t, dec.Decode(&value))
			return value
		}
		first := read(doc)
		again, err := json.Marshal(first)
		require.NoError(t, err)
		require.NoError(t, strictjson.Check(again), "%s", again)
		require.Equal(t, first, read(again))
		if !bytes.ContainsRune(doc, utf8.RuneError) && !bytes.Contains(bytes.ToLower(doc), []byte(`\ufffd`)) {
			require.NotContains(t, string(again), string(utf8.RuneError), "%s", doc)
			require.NotContains(t, string(again), `\ufffd`, "%s", doc)
		}
	})
}
