package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
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

func readFile(path string) ([]byte, error) {
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
		if _, binary := strings.CutPrefix(value, blobFile); binary {
			return "", &valueError{errors.New("takes text"), "name a text file by " + textFile + "PATH"}
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
	text := value
	if path, ok := strings.CutPrefix(value, textFile); ok {
		content, err := readFile(path)
		if err != nil {
			return nil, err
		}
		text = string(content)
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		// The decoder's error names an offset only, but of a secret even that is nobody's business.
		return nil, &valueError{errors.New("is not base64"), "give the bytes of a file by " + blobFile + "PATH, or encode them: printf %s TEXT | base64"}
	}
	return blob, nil
}

// listFlags take several values in a row, as the aws CLI's do.
var listFlags = []string{"--grant-tokens", "--tags", "--tag-keys", "--context"}

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

func parseTags(raw []string) ([]types.Tag, error) { return parseStructs(raw, parseTag) }

// parseStructs returns the values of a list flag, each in the shorthand or all of them as JSON.
func parseStructs[T any](raw []string, shorthand func(string) (T, error)) ([]T, error) {
	values, isJSON, err := loadAll(raw)
	if err != nil {
		return nil, err
	}
	list := []T{}
	if isJSON {
		return list, decodeStrict(values[0], &list)
	}
	for _, value := range values {
		item, err := shorthand(value)
		if err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	return list, nil
}

// parseTag reads the shorthand TagKey=a,TagValue=b.
func parseTag(text string) (types.Tag, error) {
	members, ok := parseShorthand(text, "TagKey", "TagValue")
	if !ok {
		return types.Tag{}, malformedTag(text, "TagKey=NAME,TagValue=TEXT")
	}
	return types.Tag{TagKey: members["TagKey"], TagValue: members["TagValue"]}, nil
}

func malformedTag(text, want string) error {
	return &valueError{fmt.Errorf("malformed tag %q", text), "write " + want + ", or JSON when a comma is part of a value"}
}

// iamTagInput is a tag as the operations of AWS IAM have it.
type iamTagInput struct{ Key, Value *string }

// parseIAMTags reads the shorthand Key=a,Value=b, or JSON. Both members must be there.
func parseIAMTags(raw []string) ([]keystore.Tag, error) {
	const want = "Key=NAME,Value=TEXT"
	given, err := parseStructs(raw, func(text string) (iamTagInput, error) {
		members, ok := parseShorthand(text, "Key", "Value")
		if !ok {
			return iamTagInput{}, malformedTag(text, want)
		}
		return iamTagInput{members["Key"], members["Value"]}, nil
	})
	if err != nil {
		return nil, err
	}
	tags := []keystore.Tag{}
	for _, tag := range given {
		if tag.Key == nil || tag.Value == nil {
			return nil, malformedTag("Key="+aws.ToString(tag.Key), want)
		}
		tags = append(tags, keystore.Tag{Key: *tag.Key, Value: *tag.Value})
	}
	return tags, nil
}

// parseShorthand reads NAME=VALUE,NAME=VALUE with each of the names at most once.
func parseShorthand(text string, names ...string) (map[string]*string, bool) {
	members := map[string]*string{}
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok || members[name] != nil || !slices.Contains(names, name) {
			return nil, false
		}
		members[name] = &value
	}
	return members, true
}

// parseRecipient reads the shorthand KeyEncryptionAlgorithm=a,AttestationDocument=b, or JSON; the document is base64.
func parseRecipient(text string) (*types.RecipientInfo, error) {
	values, isJSON, err := loadAll([]string{text})
	if err != nil {
		return nil, err
	}
	var recipient types.RecipientInfo
	if isJSON {
		return &recipient, decodeStrict(values[0], &recipient)
	}
	members, ok := parseShorthand(values[0], "KeyEncryptionAlgorithm", "AttestationDocument")
	if !ok {
		return nil, &valueError{errors.New("malformed recipient"), "write KeyEncryptionAlgorithm=NAME,AttestationDocument=BLOB, or JSON"}
	}
	recipient.KeyEncryptionAlgorithm = types.KeyEncryptionMechanism(aws.ToString(members["KeyEncryptionAlgorithm"]))
	recipient.AttestationDocument, err = loadBlob(aws.ToString(members["AttestationDocument"]))
	return &recipient, err
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
