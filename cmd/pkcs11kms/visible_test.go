package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// hostile renames the window, deletes the screen (by ESC and by the one character CSI), writes over the line, turns the
// direction of writing, and ends the row of a table.
const hostile = "a\x1b]0;x\a\x1b[2J\u009b2J\x7f\rb\u202ec\u2028d\u00ade\nf\tg\x00\U000e0041 ünï \u3000✓ é"

// raw returns what a terminal obeys of a text, besides the line ends and tabs that a form has.
func raw(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsGraphic(r) {
			return -1
		}
		return r
	}, text)
}

func TestVisible(t *testing.T) {
	for text, want := range map[string]string{
		"plain ünï✓ \u00a0\u3000e\u0301 \"q\" \\ '": "plain ünï✓ \u00a0\u3000e\u0301 \"q\" \\ '",
		"\x1b[1m\u009b\x7f\x00":                     `\x1b[1m\u009b\x7f\x00`,
		"a\nb\tc\rd\r\ne":                           `a\nb\tc\rd\r\ne`,
		"\u202e\u2066\u200b\ufeff\u2028\U000e0041":  `\u202e\u2066\u200b\ufeff\u2028\U000e0041`,
		"\xff\ufffd\xe2\x82":                        "\\xff\ufffd\\xe2\\x82",
	} {
		assert.Equal(t, want, visible(text))
		assert.Empty(t, raw(visible(text)))
	}
	assert.Equal(t, "a\nb\tc\\rd\r\ne\\x1b", visibleLines("a\nb\tc\rd\r\ne\x1b"))
	assert.Equal(t, `a b\x1b\tc`, oneLine("a \n  b\x1b\tc"))
}

func TestVisibleJSONIsTheSameJSON(t *testing.T) {
	text, err := json.Marshal(map[string]string{"a" + hostile: hostile})
	require.NoError(t, err)
	shown := visibleJSON(text)
	assert.Empty(t, raw(string(shown)))
	assert.JSONEq(t, string(text), string(shown))
	assert.Contains(t, string(shown), `\u009b2J\u007f`)
	assert.Contains(t, string(shown), `\udb40\udc41`)
	assert.Contains(t, string(shown), "ünï")
}

// TestResponsesReachATerminalVisible: values and names, in every form, however they are nested.
func TestResponsesReachATerminalVisible(t *testing.T) {
	response := map[string]any{"Text": hostile, "List": []any{hostile, []any{hostile, nil, true}},
		"Maps": []any{map[string]any{hostile: hostile, "B": "b"}, map[string]any{"B": []any{hostile}}}, hostile: map[string]any{"C": hostile}}
	for _, root := range []any{response, response["List"], response["Maps"], hostile, []any{hostile}, []any{[]any{hostile, hostile}}} {
		for _, output := range outputFormats {
			var out bytes.Buffer
			a := &app{output: output, stdout: &out}
			require.NoError(t, a.print("Operation", &document{root: root, order: map[uintptr][]string{}}))
			text := out.String()
			assert.Empty(t, strings.ReplaceAll(raw(text), "\r\n", ""), "%s", output)
			if output == "json" {
				var back any
				require.NoError(t, json.Unmarshal(out.Bytes(), &back))
				assert.Equal(t, root, back)
			}
		}
	}
}

// TestATextMakesNoRows: a line end in a value must not look like another entry.
func TestATextMakesNoRows(t *testing.T) {
	var out bytes.Buffer
	a := &app{output: "text", stdout: &out}
	require.NoError(t,
		a.print("ListAliases", &document{root: map[string]any{"Aliases": []any{map[string]any{"A": "x\nALIASES\ty\tz", "B": "1"}}}}))
	assert.Equal(t, "ALIASES\tx\\nALIASES\\ty\\tz\t1\n", out.String())
	out.Reset()
	require.NoError(t, a.print("GetKeyPolicy", &document{root: "{\r\n\t\"Version\": 1\n}"}))
	assert.Equal(t, "{\r\n\t\"Version\": 1\n}\n", out.String(), "a text alone keeps its lines: it can be a document")
}

// TestReportsReachATerminalVisible: what doctor, mac --check, policy lint and restore say of what others have named.
func TestReportsReachATerminalVisible(t *testing.T) {
	check := doctor.Check{Area: "keys", Subject: hostile, Status: doctor.StatusError, Text: hostile, Hint: hostile + "\nmore"}
	report := &doctor.Report{Checks: []doctor.Check{check}}
	assert.Empty(t, raw(describe(report)))
	assert.Equal(t, 7, strings.Count(describe(report), "\n"), "area, check, a hint of two lines of which one is broken, mode, counts")
	var out, stderr bytes.Buffer
	a := &app{stdout: &out, stderr: &stderr}
	require.NoError(t, a.printReport(report, true))
	assert.Empty(t, raw(out.String()))
	assert.Empty(t, raw(indented([]string{hostile})))
	assert.Empty(t, raw(displayName(hostile)))
	assert.Equal(t, `\a\\b\nc\x1b`, displayName("a\\b\nc\x1b"))
	assert.Empty(t, raw(displayMACLine(sampleTag, hostile)))
	out.Reset()
	require.Error(t, a.lint(hostile, []policy.Finding{{Severity: policy.Error, Path: hostile, Text: hostile}}))
	assert.Empty(t, raw(out.String()))
	assert.Equal(t, 1, strings.Count(out.String(), "\n"))
}

// TestLogsReachATerminalVisible: in both forms of the log, and in what the SDK logs of a server's answers.
func TestLogsReachATerminalVisible(t *testing.T) {
	for _, format := range logFormats {
		var stderr bytes.Buffer
		log, queue, err := (&app{stderr: &stderr}).newLog(format, "info")
		require.NoError(t, err)
		log.Info("request", "caller", hostile, hostile, "x")
		queue.end(time.Hour)
		assert.NotEmpty(t, stderr.String())
		assert.Empty(t, raw(stderr.String()), format)
	}
	var stderr bytes.Buffer
	n, err := visibleLog(&stderr).Write([]byte("SDK retry: \x1b[2J\n"))
	require.NoError(t, err)
	assert.Equal(t, len("SDK retry: \x1b[2J\n"), n)
	assert.Equal(t, "SDK retry: \\x1b[2J\n", stderr.String())
}
