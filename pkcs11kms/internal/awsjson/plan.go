package awsjson

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/aws/smithy-go/middleware"
)

// codec reads and writes the values of one Go type. It is immutable.
type codec interface {
	// decode reads a value that is not null into v, which is settable. It sets all of v, whatever v held before.
	decode(s *scanner, v reflect.Value) error
	append(dst []byte, v reflect.Value) []byte
	// absent reports whether a structure's member with the value v is left out.
	absent(v reflect.Value) bool
}

// member is a member of a structure: the field of that index, under that name.
type member struct {
	name  string
	key   string // the name as Encode writes it, with quotes and colon
	index int
	codec codec
	enum  bool // an enumeration, of which "" cannot be told from absent
}

// plans maps the reflect.Type of a struct to its *structCodec. Two goroutines may make the same plan at once, and
// either serves.
var plans sync.Map

// planOf returns the plan of a struct type.
func planOf(t reflect.Type) (*structCodec, error) {
	if c, ok := plans.Load(t); ok {
		return c.(*structCodec), nil
	}
	c, err := planStruct(t, 1)
	if err != nil {
		return nil, fmt.Errorf("plan %s: %w", t, err)
	}
	plans.Store(t, c)
	return c, nil
}

var resultMetadata = reflect.TypeFor[middleware.Metadata]()

// planStruct inspects t, which is depth structures deep. The limit ends types that contain themselves.
func planStruct(t reflect.Type, depth int) (*structCodec, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("%s is nested too deeply", t)
	}
	c := &structCodec{}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() || f.Type == resultMetadata {
			continue
		}
		fc, err := codecOf(f.Type, depth)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		text, _ := fc.(stringCodec)
		c.members = append(c.members, member{name: f.Name, key: `"` + f.Name + `":`, index: i, codec: fc, enum: text.known != nil})
	}
	return c, c.sort(recordedOrder[t])
}

// sort brings the members named in order to the front.
func (c *structCodec) sort(order []string) error {
	for to, name := range order {
		from := slices.IndexFunc(c.members, func(m member) bool { return m.name == name })
		if from < to {
			return fmt.Errorf("no member %q to put at position %d", name, to)
		}
		m := c.members[from]
		c.members = slices.Insert(slices.Delete(c.members, from, from+1), to, m)
	}
	return nil
}

func codecOf(t reflect.Type, depth int) (codec, error) {
	switch t.Kind() {
	case reflect.Bool:
		return boolCodec{}, nil
	case reflect.Int32:
		return int32Codec{}, nil
	case reflect.String:
		return stringCodec{known: enumValues(t)}, nil
	case reflect.Pointer:
		elem, err := codecOf(t.Elem(), depth)
		return pointerCodec{t.Elem(), elem}, err
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return blobCodec{}, nil
		}
		elem, err := codecOf(t.Elem(), depth)
		return listCodec{t, elem}, err
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return timeCodec{}, nil
		}
		return planStruct(t, depth+1)
	}
	if t == reflect.TypeFor[map[string]string]() {
		return mapCodec{}, nil
	}
	return nil, fmt.Errorf("the protocol has no form for type %s", t)
}

// enumValues returns the values of an enumeration, each as its own key, so that decoding a known one allocates
// nothing. It returns nil for a type that lists no values.
func enumValues(t reflect.Type) map[string]string {
	values := reflect.Zero(t).MethodByName("Values")
	if !values.IsValid() {
		return nil
	}
	list := values.Call(nil)[0]
	known := make(map[string]string, list.Len())
	for i := range list.Len() {
		value := list.Index(i).String()
		known[value] = value
	}
	return known
}
