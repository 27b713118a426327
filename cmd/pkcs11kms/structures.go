package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
)

// What --help says of flags that take structures.
const (
	tagsUsage      = "tags: TagKey=NAME,TagValue=TEXT ..., or JSON"
	iamTagsUsage   = "tags: Key=NAME,Value=TEXT ..., or JSON"
	recipientUsage = "an attested recipient: KeyEncryptionAlgorithm=NAME,AttestationDocument=BLOB, or JSON"
)

// constraintsUsage is that of grants.
const constraintsUsage = "a constraint of the grant: SourceArn=ARN, or JSON"

// structureHelp is added to the help of every verb with such a flag.
func structureHelp(flag string) string {
	return "\n\n--" + flag + " takes the aws CLI's shorthand, JSON, or file://PATH with either. A value with a comma is quoted:\n" +
		"'NAME=\"a, b\"' (the outer quotes are the shell's). In \"...\" and '...' a backslash stands before a quote or a\n" +
		"backslash, outside of them before a comma. NAME@=file://PATH takes a value from a file."
}

// parseStructures returns the values of a list flag: one JSON list, or for each entry its JSON or its shorthand. want is
// the form of the latter, for the hint.
func parseStructures[T any](raw []string, want string, shorthand func(members) (T, error)) ([]T, error) {
	values, isJSON, err := loadAll(raw)
	if err != nil {
		return nil, err
	}
	list := []T{}
	if isJSON && strings.HasPrefix(strings.TrimSpace(values[0]), "[") {
		return list, decodeStrict(values[0], &list)
	}
	for _, value := range values {
		item, err := parseStructure(value, want, shorthand)
		if err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	return list, nil
}

// parseStructure reads one structure, as JSON or in the shorthand.
func parseStructure[T any](text, want string, shorthand func(members) (T, error)) (item T, err error) {
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		return item, decodeStrict(text, &item)
	}
	given, err := parseShorthand(text)
	if err == nil {
		item, err = shorthand(given)
	}
	if err == nil || hintOf(err) != "" {
		return item, err
	}
	return item, &valueError{fmt.Errorf("is not of the form %s: %w", want, err),
		"a value with a comma is quoted: 'NAME=\"a, b\"'; or write JSON"}
}

// members are those of a structure in the shorthand.
type members map[string]any

// only refuses every other name.
func (m members) only(names ...string) error {
	for name := range m {
		if !slices.Contains(names, name) {
			return fmt.Errorf("it has no member %q", displayMember(name))
		}
	}
	return nil
}

// text returns a member that is a text, or nil.
func (m members) text(name string) (*string, error) {
	switch value := m[name].(type) {
	case nil:
		return nil, nil
	case shorthandText:
		if !value.file {
			return &value.text, nil
		}
		text, err := loadText(value.text)
		return &text, err
	case []any:
		return nil, fmt.Errorf("%s has several values", name)
	}
	return nil, fmt.Errorf("%s is an object", name)
}

// pair reads two members that are texts, of which each may be missing.
func (m members) pair(first, second string) (a, b *string, err error) {
	if err = m.only(first, second); err == nil {
		a, err = m.text(first)
	}
	if err == nil {
		b, err = m.text(second)
	}
	return a, b, err
}

func parseTags(raw []string) ([]types.Tag, error) {
	return parseStructures(raw, "TagKey=NAME,TagValue=TEXT", func(m members) (tag types.Tag, err error) {
		tag.TagKey, tag.TagValue, err = m.pair("TagKey", "TagValue")
		return tag, err
	})
}

// iamTagInput is a tag as the operations of AWS IAM have it.
type iamTagInput struct{ Key, Value *string }

// parseIAMTags is parseTags for the operations of AWS IAM. Both members must be there.
func parseIAMTags(raw []string) ([]keystore.Tag, error) {
	const want = "Key=NAME,Value=TEXT"
	given, err := parseStructures(raw, want, func(m members) (tag iamTagInput, err error) {
		tag.Key, tag.Value, err = m.pair("Key", "Value")
		return tag, err
	})
	if err != nil {
		return nil, err
	}
	tags := []keystore.Tag{}
	for _, tag := range given {
		if tag.Key == nil || tag.Value == nil {
			return nil, &valueError{errors.New("a tag needs both Key and Value"), "write " + want + ", or JSON"}
		}
		tags = append(tags, keystore.Tag{Key: *tag.Key, Value: *tag.Value})
	}
	return tags, nil
}

// parseConstraints reads the constraints of a grant. Those on an encryption context, which no key here can have, are given as JSON.
func parseConstraints(text string) (*types.GrantConstraints, error) {
	values, _, err := loadAll([]string{text})
	if err != nil {
		return nil, err
	}
	constraints, err := parseStructure(values[0], "SourceArn=ARN", func(m members) (c types.GrantConstraints, err error) {
		if err = m.only("SourceArn"); err == nil {
			c.SourceArn, err = m.text("SourceArn")
		}
		return c, err
	})
	return &constraints, err
}

// parseRecipient reads KeyEncryptionAlgorithm and AttestationDocument; the document is base64, or fileb://PATH.
func parseRecipient(text string) (*types.RecipientInfo, error) {
	values, _, err := loadAll([]string{text})
	if err != nil {
		return nil, err
	}
	const want = "KeyEncryptionAlgorithm=NAME,AttestationDocument=BLOB"
	recipient, err := parseStructure(values[0], want, func(m members) (r types.RecipientInfo, err error) {
		if err := m.only("KeyEncryptionAlgorithm", "AttestationDocument"); err != nil {
			return r, err
		}
		algorithm, err := m.text("KeyEncryptionAlgorithm")
		if err != nil {
			return r, err
		}
		r.KeyEncryptionAlgorithm = types.KeyEncryptionMechanism(aws.ToString(algorithm))
		switch document := m["AttestationDocument"].(type) {
		case nil:
			return r, nil
		case shorthandText:
			r.AttestationDocument, err = loadBlob(document.text)
			return r, err
		}
		return r, errors.New("AttestationDocument is not one value")
	})
	return &recipient, err
}
