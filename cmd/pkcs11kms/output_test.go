package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jmespath/go-jmespath"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestFormatsOfTheAWSCLI compares the three forms of output with what the aws CLI's own formatters made of the same
// responses. Each file of testdata/formats says where its output came from.
func TestFormatsOfTheAWSCLI(t *testing.T) {
	files, err := filepath.Glob("testdata/formats/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			require.NoError(t, err)
			operation, _, _ := strings.Cut(string(archive.Comment), "\n")
			response := readDocument(t, archive.Files[0].Data)
			require.Greater(t, len(archive.Files), 2)
			for _, want := range archive.Files[1:] {
				var out bytes.Buffer
				a := &app{output: want.Name, stdout: &out}
				require.NoError(t, a.print(operation, response))
				assert.Equal(t, string(want.Data), out.String(), want.Name)
			}
		})
	}
}

// readDocument reads JSON with the order of the members.
func readDocument(t *testing.T, text []byte) *document {
	t.Helper()
	d := &document{order: map[uintptr][]string{}}
	dec := json.NewDecoder(bytes.NewReader(text))
	var read func() any
	read = func() any {
		token, err := dec.Token()
		require.NoError(t, err)
		switch token {
		case json.Delim('{'):
			m, names := map[string]any{}, []string{}
			for dec.More() {
				name, err := dec.Token()
				require.NoError(t, err)
				names = append(names, name.(string))
				m[name.(string)] = read()
			}
			_, _ = dec.Token() // the closing brace that More has seen
			d.order[identity(m)] = names
			return m
		case json.Delim('['):
			list := []any{}
			for dec.More() {
				list = append(list, read())
			}
			_, _ = dec.Token()
			return list
		}
		return token
	}
	d.root = read()
	return d
}

func TestJSONScalars(t *testing.T) {
	for _, tc := range []struct {
		value any
		json  string
		plain string
	}{
		{"<a&b>\u2713", `"<a&b>✓"`, "<a&b>✓"},
		{"line\nend\x01\"", `"line\nend\u0001\""`, "line\nend\x01\""},
		{float64(3), "3", "3"},
		{2.5, "2.5", "2.5"},
		{true, "true", "True"},
		{false, "false", "False"},
		{nil, "null", "None"},
	} {
		var buf bytes.Buffer
		(&document{}).writeJSON(&buf, tc.value, "\n")
		assert.Equal(t, tc.json, buf.String())
		assert.Equal(t, tc.plain, plain(tc.value))
	}
}

func TestQueryShapesTheOutput(t *testing.T) {
	const response = `{"Keys": [{"KeyId": "k1", "KeyArn": "a1"}, {"KeyId": "k2", "KeyArn": "a2"}]}`
	for _, tc := range []struct{ name, query, output, want string }{
		{"members keep their order", "Keys[0]", "json", "{\n    \"KeyId\": \"k1\",\n    \"KeyArn\": \"a1\"\n}\n"},
		{"new members have the query's", "{z: Keys[0].KeyId, a: Keys[1].KeyArn}", "json", "{\n    \"z\": \"k1\",\n    \"a\": \"a2\"\n}\n"},
		{"in lists too", `Keys[].{"b": KeyId, a: KeyArn} | [1]`, "json", "{\n    \"b\": \"k2\",\n    \"a\": \"a2\"\n}\n"},
		{"nothing found", "Nope", "json", "null\n"},
		{"nothing found as text", "Nope", "text", "None\n"},
		{"numbers", "length(Keys)", "json", "2\n"},
		{"a string", "Keys[0].KeyId", "json", "\"k1\"\n"},
		{"a column", "Keys[].KeyId", "text", "k1\tk2\n"},
		{"rows", "Keys[].[KeyId,KeyArn]", "text", "k1\ta1\nk2\ta2\n"},
		{"an empty list", "Keys[?KeyId=='x']", "json", "[]\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			search, err := jmespath.Compile(tc.query)
			require.NoError(t, err)
			var out bytes.Buffer
			a := &app{output: tc.output, query: tc.query, search: search, stdout: &out}
			require.NoError(t, a.print("ListKeys", readDocument(t, []byte(response))))
			assert.Equal(t, tc.want, out.String())
		})
	}
}

func TestQueryThatCannotBeApplied(t *testing.T) {
	search, err := jmespath.Compile("length(Keys)")
	require.NoError(t, err)
	a := &app{output: "json", query: "length(Keys)", search: search, stdout: &bytes.Buffer{}}
	err = a.print("ListKeys", readDocument(t, []byte(`{"Keys": true}`)))
	assert.EqualError(t, err, `applying --query "length(Keys)": a function does not take what it is given`)
	assert.NotEmpty(t, hintOf(err))
	var usage *usageError
	assert.False(t, errors.As(err, &usage))
}

// TestQueryErrorsShowNoResponse: the library's own texts have the value that a function refused.
func TestQueryErrorsShowNoResponse(t *testing.T) {
	for _, query := range []string{"abs(Mac)", "sum([Mac])", "Keys[].abs(Mac)", "max_by(Keys, &Mac) | abs(@.Mac)", "starts_with(`1`, Mac)"} {
		search, err := jmespath.Compile(query)
		require.NoError(t, err)
		a := &app{output: "json", query: query, search: search, stdout: &bytes.Buffer{}}
		err = a.print("GenerateMac", readDocument(t, []byte(`{"Mac": "s3cret", "Keys": [{"Mac": "s3cret"}]}`)))
		require.Error(t, err, query)
		assert.NotContains(t, err.Error()+hintOf(err), "s3cret")
	}
}

// A lone scalar as a table is the one place where the aws CLI's form is not followed: it draws no value at all.
func TestTableOfAScalarShowsIt(t *testing.T) {
	var out bytes.Buffer
	writeTable(&out, "ListKeys", "k1", 80)
	assert.Equal(t, "----------\n|ListKeys|\n+--------+\n|  k1    |\n+--------+\n", out.String())
}

func TestTableFitsTheTerminal(t *testing.T) {
	row := map[string]any{"Aaaaaaaaaa": "1", "Bbbbbbbbbb": "2"}
	var wide, narrow bytes.Buffer
	writeTable(&wide, "T", row, 40)
	writeTable(&narrow, "T", row, 20)
	assert.Contains(t, wide.String(), "| Aaaaaaaaaa  | Bbbbbbbbbb   |")
	assert.Contains(t, narrow.String(), "|  Aaaaaaaaaa |  1  |\n|  Bbbbbbbbbb |  2  |")
}

func TestColumnsFillTheWidth(t *testing.T) {
	for width := 13; width < 100; width++ {
		for _, widths := range [][]int{{5}, {5, 5}, {5, 8, 6}, {5, 40, 5, 5}} {
			sum := 0
			for _, w := range fit(widths, width) {
				sum += w
			}
			assert.Equal(t, width, sum, "%v", widths)
		}
	}
}

func TestClosedPipeIsNoError(t *testing.T) {
	read, write, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, read.Close())
	defer write.Close()
	a := &app{output: "json", stdout: write}
	err = a.print("ListKeys", readDocument(t, []byte(`{"Keys": []}`)))
	var output *outputError
	require.ErrorAs(t, err, &output)
	assert.True(t, errors.Is(err, syscall.EPIPE))
}
