package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
)

// Every constraint that the service model has on the input of an operation is broken here, one by one, by a body that is in
// order otherwise. No operation may succeed, and each must name the member and the constraint: also those that are refused to
// everybody, since clients learn by the error what they did wrong.
func TestEveryConstraintOfTheModelIsHeld(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	broken := 0
	for _, op := range slices.Sorted(maps.Keys(operations)) {
		body := wellFormedInput(t, inputOf(t, op))
		for _, b := range breaks(t, inputOf(t, op), "", func(change func(map[string]any)) map[string]any {
			input := wellFormedInput(t, inputOf(t, op))
			change(input)
			return input
		}) {
			broken++
			got := f.send(t, f.request(t, r.url, op, b.body))
			what := fmt.Sprintf("%s with %s: %s", op, b.what, got.body)
			require.Equal(t, http.StatusBadRequest, got.StatusCode, what)
			var answer struct {
				Type    string `json:"__type"`
				Message string
			}
			require.NoError(t, json.Unmarshal([]byte(got.body), &answer), what)
			assert.Equal(t, "ValidationException", answer.Type, what)
			assert.Contains(t, answer.Message, "at '"+b.path+"' failed to satisfy constraint: Member must "+b.constraint, what)
			assert.Equal(t, strings.Count(answer.Message, "failed to satisfy"), strings.Count(answer.Message, "at '"+b.path+"'"), what)
		}
		got := f.send(t, f.request(t, r.url, op, encode(t, body)))
		assert.NotContains(t, got.body, "validation error", "%s in order", op)
	}
	t.Logf("%d broken constraints of %d operations", broken, len(operations))
	require.Greater(t, broken, 450)
}

// What is just inside of every constraint passes.
func TestEdgesOfTheConstraintsPass(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	for op := range operations {
		for _, edge := range []edge{lowest, highest} {
			got := f.send(t, f.request(t, r.url, op, encode(t, inputAt(t, inputOf(t, op), edge, true))))
			assert.NotContains(t, got.body, "validation error", "%s at an edge", op)
			assert.NotContains(t, got.body, "Serialization", "%s at an edge", op)
		}
	}
}

// inputOf is the type of an operation's input.
func inputOf(t testing.TB, op string) reflect.Type {
	method, ok := reflect.TypeFor[*kms.Client]().MethodByName(op)
	require.True(t, ok, op)
	return method.Type.In(2).Elem()
}

// wellFormed is a body that breaks no constraint of the model.
func wellFormed(t testing.TB, op string) string { return encode(t, wellFormedInput(t, inputOf(t, op))) }

func encode(t testing.TB, input map[string]any) string {
	body, err := json.Marshal(input)
	require.NoError(t, err)
	return string(body)
}

func wellFormedInput(t testing.TB, input reflect.Type) map[string]any {
	return inputAt(t, input, lowest, false)
}

// operationRequires are members that the operation requires and the model does not.
var operationRequires = map[string][]string{
	"DecryptInput": {"CiphertextBlob"}, "ReEncryptInput": {"CiphertextBlob"}, "ListRetirableGrantsInput": {"RetiringPrincipal"},
}

// edge is which of the values that a constraint allows is taken.
type edge int

const (
	lowest edge = iota
	highest
)

// inputAt makes an input of the required members, or of all of them.
func inputAt(t testing.TB, input reflect.Type, at edge, all bool) map[string]any {
	members, ok := form.Members(strings.TrimSuffix(input.Name(), "Input"))
	require.True(t, ok, "a model of %s", input)
	made := map[string]any{}
	for _, m := range members {
		required := m.Required || slices.Contains(operationRequires[input.Name()], m.Name)
		if field, _ := input.FieldByName(m.Name); required || all {
			made[m.Name] = valueAt(t, field.Type, m.Name, m.Rule, at)
		}
	}
	return made
}

// fitting are beginnings and an end of texts that have a pattern; in between stands the letter a, or what is in middle.
var fitting = map[string]struct{ before, after, middle string }{
	"AccessKeyId":                     {middle: "A"},
	"CloudHsmClusterId":               {before: "cluster-"},
	"GranteeServicePrincipal":         {before: "a.b."},
	"KeyMaterialId":                   {middle: "0"},
	"PrimaryRegion":                   {before: "us-west-", middle: "1"},
	"ReplicaRegion":                   {before: "us-west-", middle: "1"},
	"RetiringServicePrincipal":        {before: "a.b."},
	"SourceArn":                       {before: "arn:aws:kms::111122223333:"},
	"XksProxyUriEndpoint":             {before: "https://"},
	"XksProxyUriPath":                 {before: "/", after: "/kms/xks/v1"},
	"XksProxyVpcEndpointServiceName":  {before: "com.amazonaws.vpce.us-west-1.vpce-svc-"},
	"XksProxyVpcEndpointServiceOwner": {middle: "1"},
}

// valueAt is a value of a member, in the form of JSON.
func valueAt(t testing.TB, of reflect.Type, name string, r form.Rule, at edge) any {
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	n := r.Least
	if at == highest {
		n = r.Most
	}
	switch kind := of.Kind(); {
	case kind == reflect.String && enumOf(of) != nil:
		return enumOf(of)[0]
	case kind == reflect.String:
		f, least := fitting[name], 0
		if r.Pattern != "" {
			least = 1 // few patterns fit the empty text, whatever the length may be
		}
		return f.before + strings.Repeat(either(f.middle, "a"), max(least, n-len(f.before+f.after))) + f.after
	case kind == reflect.Int32:
		return n
	case kind == reflect.Bool:
		return true
	case kind == reflect.Map:
		return map[string]string{"a": "b"}
	case of.String() == "time.Time":
		return 1
	case kind == reflect.Struct:
		return inputAt(t, of, at, at == highest)
	case of.Elem().Kind() == reflect.Uint8:
		return make([]byte, n)
	}
	list := make([]any, max(1, n))
	for i := range list {
		list[i] = valueAt(t, of.Elem(), name, elementRule(r), at)
	}
	return list
}

func elementRule(r form.Rule) form.Rule {
	if r.Each == nil {
		return form.Rule{}
	}
	return *r.Each
}

// enumOf returns the values of an enumeration, nil for another type.
func enumOf(t reflect.Type) []string {
	method := reflect.Zero(t).MethodByName("Values")
	if !method.IsValid() {
		return nil
	}
	list := method.Call(nil)[0]
	values := make([]string, list.Len())
	for i := range values {
		values[i] = list.Index(i).String()
	}
	return values
}

// broken is a body with one broken constraint.
type broken struct{ what, body, path, constraint string }

// breaks breaks every constraint of a structure. with makes the whole input and lets the structure inside it be changed.
func breaks(t testing.TB, structure reflect.Type, path string, with func(change func(map[string]any)) map[string]any) (all []broken) {
	members, _ := form.Members(strings.TrimSuffix(structure.Name(), "Input"))
	for _, m := range members {
		field, _ := structure.FieldByName(m.Name)
		at := path + strings.ToLower(m.Name[:1]) + m.Name[1:]
		set := func(value any) string {
			return encode(t, with(func(input map[string]any) { input[m.Name] = value }))
		}
		if m.Required {
			removed := encode(t, with(func(input map[string]any) { delete(input, m.Name) }))
			all = append(all, broken{"no " + at, removed, at, "not be null"}, broken{"null " + at, set(nil), at, "not be null"})
		}
		all = append(all, breakValues(t, field.Type, m.Name, m.Rule, at, set, with)...)
	}
	return all
}

// breakValues breaks the constraints on the values of a member, or of the elements of one.
func breakValues(t testing.TB, of reflect.Type, name string, r form.Rule, at string, set func(any) string,
	with func(func(map[string]any)) map[string]any) (all []broken) {
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	add := func(value any, what, constraint string, args ...any) {
		all = append(all, broken{what + " " + at, set(value), at, fmt.Sprintf(constraint, args...)})
	}
	switch kind := of.Kind(); {
	case kind == reflect.String && enumOf(of) != nil:
		for _, value := range []string{"", "NO_SUCH_VALUE", strings.ToLower(enumOf(of)[0]), enumOf(of)[0] + " "} {
			add(value, fmt.Sprintf("%q as", value), "satisfy enum value set: [%s]", strings.Join(enumOf(of), ", "))
		}
	case kind == reflect.String:
		breakLength(add, r, func(n int) any { return strings.Repeat("a", n) })
		if r.Pattern != "" {
			add(strings.Repeat("\u20ac", max(1, r.Least)), "pattern of", "satisfy regular expression pattern: %s", r.Pattern)
			add(valueAt(t, of, name, r, lowest).(string)+"\n\u20ac", "line end in", "satisfy regular expression pattern: %s", r.Pattern)
		}
	case kind == reflect.Int32:
		add(r.Least-1, "too small", "have value greater than or equal to %d", r.Least)
		add(r.Most+1, "too large", "have value less than or equal to %d", r.Most)
	case kind == reflect.Slice && of.Elem().Kind() == reflect.Uint8:
		breakLength(add, r, func(n int) any { return make([]byte, n) })
	case kind == reflect.Slice:
		element := func() any { return valueAt(t, of.Elem(), name, elementRule(r), lowest) }
		if r.Most > 0 {
			add(slices.Repeat([]any{element()}, r.Most+1), "too long", "have length less than or equal to %d", r.Most)
		}
		second := func(value any) string { return set([]any{element(), value}) }
		inside := func(change func(map[string]any)) map[string]any {
			return with(func(input map[string]any) {
				one, _ := element().(map[string]any)
				change(one)
				input[name] = []any{element(), one}
			})
		}
		all = append(all, breakValues(t, of.Elem(), name, elementRule(r), at+".2.member", second, inside)...)
	case kind == reflect.Struct && of.String() != "time.Time":
		all = append(all, breaks(t, of, at+".", func(change func(map[string]any)) map[string]any {
			if strings.HasSuffix(at, ".member") {
				return with(change)
			}
			return with(func(input map[string]any) {
				one := inputAt(t, of, lowest, false)
				change(one)
				input[name] = one
			})
		})...)
	}
	return all
}

func breakLength(add func(value any, what, constraint string, args ...any), r form.Rule, of func(int) any) {
	if r.Least > 0 {
		add(of(r.Least-1), "too short", "have length greater than or equal to %d", r.Least)
	}
	add(of(r.Most+1), "too long", "have length less than or equal to %d", r.Most)
}
