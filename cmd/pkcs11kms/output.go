package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

var outputFormats = []string{"json", "text", "table"}

// print writes a response in the form that --query and --output ask for.
func (a *app) print(operation string, d *document) error {
	if a.search != nil {
		var err error
		if d, err = d.apply(a.search, a.query); err != nil {
			return err
		}
	}
	var buf bytes.Buffer
	switch a.output {
	case "text":
		writeText(&buf, visibleTree(d.root), "", nil)
	case "table":
		writeTable(&buf, operation, visibleTree(d.root), terminalWidth(a.stdout))
	default:
		// An operation without output prints nothing, but an empty list is one.
		if m, ok := d.root.(map[string]any); !ok || len(m) > 0 || d.json {
			d.writeJSON(&buf, d.root, "\n")
			buf.WriteByte('\n')
		}
	}
	if a.output == "json" {
		return a.write(visibleJSON(buf.Bytes()))
	}
	return a.write(buf.Bytes())
}

// printJSON is print for what is JSON already.
func (a *app) printJSON(title string, text []byte) error {
	d, err := newJSONDocument(text, a.search != nil)
	if err != nil {
		return err
	}
	return a.print(title, d)
}

// write writes what is visible already.
func (a *app) write(text []byte) error {
	if len(text) == 0 {
		return nil // an output that takes nothing is none that fails
	}
	if _, err := a.stdout.Write(text); err != nil {
		return &outputError{err}
	}
	return nil
}

// printf writes a line or more for people. What others may have set of it must be on one line already.
func (a *app) printf(format string, args ...any) error {
	return a.write([]byte(visibleLines(fmt.Sprintf(format, args...))))
}

// writeJSON writes a value with four blanks of indentation a level; lineEnd is the line end with the current one.
func (d *document) writeJSON(w *bytes.Buffer, value any, lineEnd string) {
	inner := lineEnd + "    "
	switch v := value.(type) {
	case map[string]any:
		w.WriteByte('{')
		for i, name := range d.keys(v) {
			writeSeparator(w, i, inner)
			writeScalar(w, name)
			w.WriteString(": ")
			d.writeJSON(w, v[name], inner)
		}
		closeWith(w, '}', len(v), lineEnd)
	case []any:
		w.WriteByte('[')
		for i, item := range v {
			writeSeparator(w, i, inner)
			d.writeJSON(w, item, inner)
		}
		closeWith(w, ']', len(v), lineEnd)
	default:
		writeScalar(w, v)
	}
}

func writeSeparator(w *bytes.Buffer, i int, lineEnd string) {
	if i > 0 {
		w.WriteByte(',')
	}
	w.WriteString(lineEnd)
}

func closeWith(w *bytes.Buffer, bracket byte, items int, lineEnd string) {
	if items > 0 {
		w.WriteString(lineEnd)
	}
	w.WriteByte(bracket)
}

func writeScalar(w *bytes.Buffer, value any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	must(enc.Encode(value))
	w.Truncate(w.Len() - 1) // the line end that Encode adds
}

// plain is a scalar as the aws CLI's text and table forms show it, which is Python's str.
func plain(value any) string {
	switch v := value.(type) {
	case nil:
		return "None"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case string:
		return v
	}
	var buf bytes.Buffer
	writeScalar(&buf, value)
	return buf.String()
}

// writeText writes the tab-separated form: the scalars of a map on one line in the order of their names, what it holds
// besides below it on lines that begin with the upper-case name. columns are the scalars of the list that the map
// stands in; nil for its own.
func writeText(w io.Writer, value any, label string, columns []string) {
	switch v := value.(type) {
	case map[string]any:
		writeTextMap(w, v, label, columns)
	case []any:
		writeTextList(w, v, label)
	default:
		fmt.Fprintln(w, plain(v))
	}
}

func writeTextMap(w io.Writer, m map[string]any, label string, columns []string) {
	scalars, others := splitMembers(m)
	if columns == nil {
		columns = scalars
	} else {
		others = slices.DeleteFunc(others, func(name string) bool { return slices.Contains(columns, name) })
	}
	var cells []string
	if label != "" && len(columns) > 0 {
		cells = append(cells, strings.ToUpper(label))
	}
	for _, name := range columns {
		cell := ""
		if value, ok := m[name]; ok {
			cell = plain(value)
		}
		cells = append(cells, cell)
	}
	if len(cells) > 0 {
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	for _, name := range others {
		writeText(w, m[name], name, nil)
	}
}

func writeTextList(w io.Writer, list []any, label string) {
	if slices.ContainsFunc(list, isMap) {
		columns := scalarNames(list)
		for _, item := range list {
			writeText(w, item, label, columns)
		}
		return
	}
	var scalars []string
	var nested []any
	for _, item := range list {
		if isScalar(item) {
			scalars = append(scalars, plain(item))
		} else {
			nested = append(nested, item)
		}
	}
	if label == "" && len(scalars) > 0 {
		fmt.Fprintln(w, strings.Join(scalars, "\t"))
	} else {
		for _, cell := range scalars {
			fmt.Fprintf(w, "%s\t%s\n", strings.ToUpper(label), cell)
		}
	}
	for _, item := range nested {
		writeText(w, item, label, nil)
	}
}

func isMap(value any) bool {
	_, ok := value.(map[string]any)
	return ok
}

func isScalar(value any) bool {
	switch value.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

// splitMembers returns the names of a map's scalars and of the rest, sorted.
func splitMembers(m map[string]any) (scalars, others []string) {
	for name, value := range m {
		if isScalar(value) {
			scalars = append(scalars, name)
		} else {
			others = append(others, name)
		}
	}
	slices.Sort(scalars)
	slices.Sort(others)
	return scalars, others
}

// scalarNames returns the names of the scalars of all maps in the list, sorted.
func scalarNames(list []any) []string {
	names := []string{}
	for _, item := range list {
		if m, ok := item.(map[string]any); ok {
			scalars, _ := splitMembers(m)
			names = append(names, scalars...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
