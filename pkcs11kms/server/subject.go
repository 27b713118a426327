package server

import (
	"log/slog"
	"reflect"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyid"
)

// subject is what a request is about, as it was asked for: nothing of it is looked up or allowed.
type subject struct {
	key   *string // key id, ARN, or alias
	alias *string // that is made, changed or deleted
}

// subjectMembers are the members of an input that say what it is about: indices of its fields, or -1.
type subjectMembers struct{ key, alias int }

// subjectOf finds them in an input of the SDK.
func subjectOf(input reflect.Type) subjectMembers {
	find := func(names ...string) int {
		for _, name := range names {
			if field, ok := input.FieldByName(name); ok && field.Type == reflect.TypeFor[*string]() {
				return field.Index[0]
			}
		}
		return -1
	}
	return subjectMembers{key: find("KeyId", "TargetKeyId"), alias: find("AliasName")}
}

// read notes what a decoded input is about.
func (m subjectMembers) read(input any, about *subject) {
	if m.key < 0 && m.alias < 0 {
		return
	}
	fields := reflect.ValueOf(input).Elem()
	if m.key >= 0 {
		about.key = fields.Field(m.key).Interface().(*string)
	}
	if m.alias >= 0 {
		about.alias = fields.Field(m.alias).Interface().(*string)
	}
}

// made notes the key that a request has made.
func (about *subject) made(output any) {
	if out, ok := output.(*kms.CreateKeyOutput); ok && out != nil {
		about.key = out.KeyMetadata.KeyId
	}
}

// appendTo adds the subject to the attributes of a log line.
func (about *subject) appendTo(attrs []slog.Attr) []slog.Attr {
	if name := loggable(about.key); name != "" {
		attrs = append(attrs, slog.String("key", name))
	}
	if name := loggable(about.alias); name != "" {
		attrs = append(attrs, slog.String("alias", name))
	}
	return attrs
}

// loggable returns a key id, the key id of an ARN, or an alias name; nothing for any other text, which may be anything, a
// message in the wrong member among it.
func loggable(text *string) string {
	if text == nil {
		return ""
	}
	name := *text
	if strings.HasPrefix(name, "arn:") {
		_, name, _ = strings.Cut(name, "/")
		if strings.Contains(*text, ":"+keyid.AliasPrefix) {
			name = keyid.AliasPrefix + name
		}
	}
	id, err := keyid.Parse(name, keyid.Home{}, true)
	switch {
	case err != nil:
		return ""
	case id.Alias != "":
		return loggableAlias(id.Alias)
	}
	return id.Key
}

const maxAlias = 256 // with its prefix

// loggableAlias returns a name that an alias can have.
func loggableAlias(name string) string {
	for i := range len(name) {
		c := name[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '/' || c == '_' || c == '-') {
			return ""
		}
	}
	if len(name) > maxAlias {
		return ""
	}
	return name
}
