package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	textFile = "file://"
	blobFile = "fileb://"
)

// maxFile is more than any member takes. What lies behind it is not read: the service refuses the rest by its length.
const maxFile = 1 << 20

// valueError is a flag's value that cannot be read. It never holds the value.
type valueError struct {
	err  error
	hint string
}

func (e *valueError) Error() string { return e.err.Error() }
func (e *valueError) Unwrap() error { return e.err }
func (e *valueError) Hint() string  { return e.hint }

func prefixed(what string, err error) error { return fmt.Errorf("%s: %w", what, err) }

// readFile reads the file that a value names by file:// or fileb://. As with the aws CLI ~/ is the home directory, which
// the shell does not put there behind the slashes.
func readFile(path string) ([]byte, error) {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(home, rest)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// loadText returns the value, or the content of the file that it names.
func loadText(value string) (string, error) {
	path, ok := strings.CutPrefix(value, textFile)
	if !ok {
		if path, binary := strings.CutPrefix(value, blobFile); binary {
			return "", &valueError{errors.New("takes text"), "the text of a file: " + shellQuote(textFile+path)}
		}
		return value, nil
	}
	text, err := readFile(path)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(text) {
		return "", &valueError{fmt.Errorf("file %q is no text (UTF-8)", path), ""}
	}
	return string(text), nil
}

// loadBlob returns bytes as version 2 of the aws CLI does: a bare value and the content of a file:// are base64.
func loadBlob(value string) ([]byte, error) {
	if path, ok := strings.CutPrefix(value, blobFile); ok {
		return readFile(path)
	}
	text, file := value, ""
	if path, ok := strings.CutPrefix(value, textFile); ok {
		content, err := readFile(path)
		if err != nil {
			return nil, err
		}
		text, file = string(content), path
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		// The decoder's error names an offset only, but of a secret even that is nobody's business.
		return nil, &valueError{errors.New("is not base64"), blobHint(value, file)}
	}
	return blob, nil
}

// blobHint tells how to give bytes that were given in a way that stands for base64. It shows a value only when that names
// a file.
func blobHint(value, file string) string {
	if file != "" {
		return textFile + " is for a file with base64 in it; the bytes of the file as they are: " + shellQuote(blobFile+file)
	}
	if info, err := os.Stat(value); err == nil && info.Mode().IsRegular() {
		return "the bytes of the file: " + shellQuote(blobFile+value)
	}
	return "give the bytes of a file by " + blobFile + "PATH, or encode them: printf %s TEXT | base64"
}

// listFlags take several values in a row, as the aws CLI's do.
var listFlags = []string{"--grant-tokens", "--tags", "--tag-keys", "--context", "--operations"}

// spreadLists writes "--tags A B" as "--tags=A --tags=B", which is what the flag parser can read.
func spreadLists(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			return append(out, args[i:]...)
		}
		if !slices.Contains(listFlags, args[i]) {
			out = append(out, args[i])
			continue
		}
		flag, first := args[i], i
		for i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
			out = append(out, flag+"="+args[i])
		}
		if i == first {
			out = append(out, flag) // without a value: left to the parser to complain about
		}
	}
	return out
}

// loadAll returns the values of a list flag, and whether they are one JSON document.
func loadAll(raw []string) (values []string, isJSON bool, err error) {
	for _, value := range raw {
		text, err := loadText(value)
		if err != nil {
			return nil, false, err
		}
		values = append(values, text)
	}
	if len(values) != 1 {
		return values, false, nil
	}
	start := strings.TrimSpace(values[0])
	return values, strings.HasPrefix(start, "[") || strings.HasPrefix(start, "{"), nil
}

func parseList(raw []string) ([]string, error) {
	values, isJSON, err := loadAll(raw)
	if err != nil || !isJSON {
		return values, err
	}
	list := []string{}
	return list, decodeStrict(values[0], &list)
}

// decodeStrict reads one JSON document with known members only.
func decodeStrict(text string, target any) error {
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(target); err != nil {
		return fmt.Errorf("reading JSON: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("reading JSON: more than one document")
	}
	return nil
}
