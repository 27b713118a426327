package awsquery

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// mostParameters bounds the parameters of a call: more than any operation takes, lists of tags and keys included.
const mostParameters = 1000

// Call is what a request asks for.
type Call struct {
	Action, Version string // empty where the request does not say
	parameters      map[string]string
}

// ErrMalformed says that a text is no form: a wrong escape, text that is not UTF-8, or too many parameters.
var ErrMalformed = errors.New("the request is not a well-formed form")

// Parse reads a form as application/x-www-form-urlencoded has it. Of a parameter that is there more than once the first counts.
func Parse(form []byte) (Call, error) {
	c := Call{parameters: map[string]string{}}
	for pair := range strings.SplitSeq(string(form), "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err == nil {
			value, err = url.QueryUnescape(value)
		}
		if err != nil || !utf8.ValidString(name) || !utf8.ValidString(value) {
			return Call{}, ErrMalformed
		}
		if _, twice := c.parameters[name]; twice {
			continue
		}
		if len(c.parameters) == mostParameters {
			return Call{}, ErrMalformed
		}
		c.parameters[name] = value
	}
	c.Action, c.Version = c.parameters["Action"], c.parameters["Version"]
	return c, nil
}

// ValueError is a parameter that has not the type of its member: a number that is none. AWS says no more of it either.
type ValueError struct{ Parameter string }

func (e *ValueError) Error() string {
	return fmt.Sprintf("parameter %s has not the form of its type", e.Parameter)
}

// MissingError names the members that an input must have and has not, as AWS spells them: userName.
type MissingError struct{ Members []string }

func (e *MissingError) Error() string {
	return "required members are missing: " + strings.Join(e.Members, ", ")
}

// Decode fills the struct that in points to. A field of type *string, *int32 or *bool is the parameter of its name, a slice of strings or
// structs is a list (Tags.member.1.Key). What is absent stays nil, and an empty list that is there becomes an empty slice. Parameters that
// no field has are ignored, as AWS does. Fields with the tag query:"required" must be there; another tag is the name of the parameter.
// Fields of embedded structs count as the struct's.
func (c Call) Decode(in any) error {
	var missing MissingError
	if err := c.fill(reflect.ValueOf(in).Elem(), "", &missing); err != nil {
		return err
	}
	if len(missing.Members) > 0 {
		return &missing
	}
	return nil
}

func (c Call) fill(into reflect.Value, prefix string, missing *MissingError) error {
	for i := range into.NumField() {
		field := into.Type().Field(i)
		name := prefix + cmp.Or(strings.TrimPrefix(field.Tag.Get("query"), "required"), field.Name)
		if field.Anonymous {
			if err := c.fill(into.Field(i), prefix, missing); err != nil {
				return err
			}
			continue
		}
		if err := c.set(into.Field(i), name, missing); err != nil {
			return err
		}
		if into.Field(i).IsNil() && field.Tag.Get("query") == "required" {
			missing.Members = append(missing.Members, memberPath(name))
		}
	}
	return nil
}

func (c Call) set(field reflect.Value, name string, missing *MissingError) error {
	if field.Kind() == reflect.Slice {
		return c.list(field, name, missing)
	}
	text, ok := c.parameters[name]
	if !ok {
		return nil
	}
	var value any
	switch field.Interface().(type) {
	case *string:
		value = &text
	case *int32:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return &ValueError{name}
		}
		number := int32(n)
		value = &number
	case *bool:
		truth := strings.EqualFold(text, "true")
		if !truth && !strings.EqualFold(text, "false") {
			return &ValueError{name}
		}
		value = &truth
	default:
		panic("awsquery: no member of an input has the type " + field.Type().String())
	}
	field.Set(reflect.ValueOf(value))
	return nil
}

// list reads Name.member.1, Name.member.2 and so on, in the order of their numbers.
func (c Call) list(field reflect.Value, name string, missing *MissingError) error {
	prefix := name + ".member."
	var numbers []int
	for parameter := range c.parameters {
		rest, ok := strings.CutPrefix(parameter, prefix)
		if !ok {
			continue
		}
		digits, _, _ := strings.Cut(rest, ".")
		n, err := strconv.Atoi(digits)
		if err != nil || n < 1 {
			return &ValueError{parameter}
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	_, empty := c.parameters[name]
	if len(numbers) == 0 && !empty {
		return nil
	}
	field.Set(reflect.MakeSlice(field.Type(), len(numbers), len(numbers)))
	for i, n := range numbers {
		at := prefix + strconv.Itoa(n)
		if item := field.Index(i); item.Kind() == reflect.Struct {
			if err := c.fill(item, at+".", missing); err != nil {
				return err
			}
		} else {
			item.SetString(c.parameters[at])
		}
	}
	return nil
}

// memberPath spells the name of a parameter as errors do: tags.1.member.key for Tags.member.1.Key.
func memberPath(parameter string) string {
	parts := strings.Split(parameter, ".")
	for i := 0; i < len(parts); i++ {
		parts[i] = lowerFirst(parts[i])
		if parts[i] == "member" && i+1 < len(parts) {
			parts[i], parts[i+1] = parts[i+1], parts[i]
			i++
		}
	}
	return strings.Join(parts, ".")
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return string(unicode.ToLower(rune(s[0]))) + s[1:]
}
