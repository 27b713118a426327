package form

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Check returns what the constraints of the model find wrong with an input, given by its pointer and not nil; nothing when
// it may pass. emptyEnums are the members, by the path of their names, that the caller gave as an empty string though the
// SDK's struct cannot tell that from absent: such a value is none of an enumeration's.
//
// A type that the tables do not know is a mistake of the program, and panics.
func Check(input any, emptyEnums ...string) Violations {
	value := reflect.ValueOf(input).Elem()
	return planOf(value.Type()).check(nil, emptyEnums, value, "", "")
}

// plan is what Check does with a structure. It is immutable.
type plan []memberPlan

type memberPlan struct {
	index    int    // of the field
	name     string // of the member
	path     string // the same in lowerCamel
	required bool
	check    check
}

// check adds what is wrong with a value that is there. path is that of errors, name that of emptyEnums. The list goes through
// the functions by value, so that an input in order costs no memory.
type check func(found Violations, emptyEnums []string, value reflect.Value, path, name string) Violations

// plans maps the reflect.Type of a struct to its plan. Two goroutines may make the same plan at once, and either serves.
var plans sync.Map

func planOf(t reflect.Type) plan {
	if p, ok := plans.Load(t); ok {
		return p.(plan)
	}
	p := newPlan(t)
	plans.Store(t, p)
	return p
}

// Knows tells whether an input, a pointer to a struct of the SDK, is of the model: those of other services than AWS KMS are not.
func Knows(in any) bool {
	_, ok := Members(strings.TrimSuffix(reflect.TypeOf(in).Elem().Name(), "Input"))
	return ok
}

func newPlan(t reflect.Type) plan {
	members, ok := Members(strings.TrimSuffix(t.Name(), "Input"))
	if !ok {
		panic("form: no model of " + t.String())
	}
	var p plan
	for _, m := range members {
		field, ok := t.FieldByName(m.Name)
		if !ok {
			panic("form: " + t.String() + " has no member " + m.Name)
		}
		check := checkOf(field.Type, m.Rule)
		if check == nil {
			if !m.Required {
				continue
			}
			check = func(found Violations, _ []string, _ reflect.Value, _, _ string) Violations { return found }
		}
		p = append(p, memberPlan{field.Index[0], m.Name, lowerCamel(m.Name), m.Required, check})
	}
	return p
}

func lowerCamel(name string) string {
	first, size := utf8.DecodeRuneInString(name)
	return string(unicode.ToLower(first)) + name[size:]
}

func (p plan) check(found Violations, emptyEnums []string, value reflect.Value, path, name string) Violations {
	for i := range p {
		m := &p[i]
		f := value.Field(m.index)
		if f.IsZero() && (len(emptyEnums) == 0 || !slices.Contains(emptyEnums, name+m.name)) {
			if m.required {
				found.Null(path + m.path)
			}
			continue
		}
		if path == "" { // so it is for most, and what is on the way of every request is cheap
			found = m.check(found, emptyEnums, f, m.path, m.name)
			continue
		}
		found = m.check(found, emptyEnums, f, path+m.path, name+m.name)
	}
	return found
}

// checkOf returns the check for values of a type, nil where there is nothing to check.
func checkOf(t reflect.Type, r Rule) check {
	switch {
	case t.Kind() == reflect.Pointer:
		inner := checkOf(t.Elem(), r)
		if inner == nil {
			return nil
		}
		return func(found Violations, emptyEnums []string, f reflect.Value, path, name string) Violations {
			return inner(found, emptyEnums, f.Elem(), path, name)
		}
	case t.Kind() == reflect.Struct && t != reflect.TypeFor[time.Time]():
		p := newPlan(t)
		return func(found Violations, emptyEnums []string, f reflect.Value, path, name string) Violations {
			return p.check(found, emptyEnums, f, path+".", name+".")
		}
	case t.Kind() == reflect.String && isEnum(t):
		return enumCheck(t)
	case t.Kind() == reflect.String:
		return textCheck(r)
	case t.Kind() == reflect.Int32:
		return func(found Violations, _ []string, f reflect.Value, path, _ string) Violations {
			found.number(path, f.Int(), r.Least, r.Most)
			return found
		}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return func(found Violations, _ []string, f reflect.Value, path, _ string) Violations {
			found.Length(path, f.Len(), r.Least, r.Most)
			return found
		}
	case t.Kind() == reflect.Slice:
		return listCheck(t, r)
	}
	return nil
}

func listCheck(t reflect.Type, r Rule) check {
	most := r.Most
	if most == 0 {
		most = math.MaxInt
	}
	var rule Rule
	if r.Each != nil {
		rule = *r.Each
	}
	each := checkOf(t.Elem(), rule)
	return func(found Violations, emptyEnums []string, f reflect.Value, path, name string) Violations {
		found.Length(path, f.Len(), r.Least, most)
		for i := range f.Len() {
			found = each(found, emptyEnums, f.Index(i), fmt.Sprintf("%s.%d.member", path, i+1), name)
		}
		return found
	}
}

func textCheck(r Rule) check {
	var pattern *regexp.Regexp
	if r.Pattern != "" {
		pattern = compile(r.Pattern)
	}
	return func(found Violations, _ []string, f reflect.Value, path, _ string) Violations {
		found.text(text{path, f.String(), r.Hidden}, r.Least, r.Most, pattern, r.Pattern)
		return found
	}
}

// compile turns a pattern of the model, which must match the whole text, into Go's form.
func compile(pattern string) *regexp.Regexp {
	return regexp.MustCompile(`\A(?:` + regexp.MustCompile(`\\u([0-9A-F]{4})`).ReplaceAllString(pattern, `\x{$1}`) + `)\z`)
}

func isEnum(t reflect.Type) bool { _, ok := t.MethodByName("Values"); return ok }

func enumCheck(t reflect.Type) check {
	list := reflect.Zero(t).MethodByName("Values").Call(nil)[0]
	values := make([]string, list.Len())
	for i := range values {
		values[i] = list.Index(i).String()
	}
	return func(found Violations, _ []string, f reflect.Value, path, _ string) Violations {
		if value := f.String(); !slices.Contains(values, value) {
			found.Add(quote(value), path, "satisfy enum value set: ["+strings.Join(values, ", ")+"]")
		}
		return found
	}
}
