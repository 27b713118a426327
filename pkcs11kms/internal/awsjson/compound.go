package awsjson

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// structCodec is the plan of a structure.
type structCodec struct{ members []member }

func (c *structCodec) decode(s *scanner, v reflect.Value) error {
	if err := s.open('{', wantObject); err != nil {
		return err
	}
	expected, above := 0, len(s.emptyEnums)
	for first := true; ; first = false {
		more, err := s.more(first, '}')
		if err != nil || !more {
			return err
		}
		name, err := s.key()
		if err != nil {
			return err
		}
		m := c.find(name, &expected)
		if m == nil {
			err = s.skip()
		} else {
			s.forget(above, m.name) // of members with one name the last one wins
			err = m.decode(s, v.Field(m.index))
		}
		if err != nil {
			return err
		}
	}
}

// find looks a name up, beginning at *expected and leaving there the place behind the match: clients send members in
// an order near to that of the fields. It returns nil for a name that is unknown.
func (c *structCodec) find(name []byte, expected *int) *member {
	for n := range c.members {
		i := (*expected + n) % len(c.members)
		if string(name) == c.members[i].name {
			*expected = i + 1
			return &c.members[i]
		}
	}
	return nil
}

func (m *member) decode(s *scanner, v reflect.Value) error {
	if s.word("null") {
		v.SetZero()
		return nil
	}
	above := len(s.emptyEnums)
	if err := m.codec.decode(s, v); err != nil {
		return under(m.name, err)
	}
	if m.enum && v.Len() == 0 {
		s.emptyEnums = append(s.emptyEnums, m.name)
		return nil
	}
	for i := above; i < len(s.emptyEnums); i++ {
		s.emptyEnums[i] = m.name + "." + s.emptyEnums[i]
	}
	return nil
}

// forget takes back what was noted of a member of the structure that is being read; above are the notes of those above it.
func (s *scanner) forget(above int, name string) {
	if len(s.emptyEnums) == above {
		return
	}
	kept := slices.DeleteFunc(s.emptyEnums[above:], func(path string) bool {
		first, _, _ := strings.Cut(path, ".")
		return first == name
	})
	s.emptyEnums = s.emptyEnums[:above+len(kept)]
}

func (c *structCodec) append(dst []byte, v reflect.Value) []byte {
	dst = append(dst, '{')
	empty := len(dst)
	for i := range c.members {
		m := &c.members[i]
		f := v.Field(m.index)
		if m.codec.absent(f) {
			continue
		}
		if len(dst) > empty {
			dst = append(dst, ',')
		}
		dst = m.codec.append(append(dst, m.key...), f)
	}
	return append(dst, '}')
}
func (*structCodec) absent(reflect.Value) bool { return false }

// pointerCodec is for optional members.
type pointerCodec struct {
	target reflect.Type
	elem   codec
}

func (c pointerCodec) decode(s *scanner, v reflect.Value) error {
	target := reflect.New(c.target)
	if err := c.elem.decode(s, target.Elem()); err != nil {
		return err
	}
	v.Set(target)
	return nil
}

func (c pointerCodec) append(dst []byte, v reflect.Value) []byte { return c.elem.append(dst, v.Elem()) }
func (pointerCodec) absent(v reflect.Value) bool                 { return v.IsNil() }

type listCodec struct {
	list reflect.Type
	elem codec
}

func (c listCodec) decode(s *scanner, v reflect.Value) error {
	if err := s.open('[', wantList); err != nil {
		return err
	}
	v.Set(reflect.MakeSlice(c.list, 0, 0))
	for n := 0; ; n++ {
		more, err := s.more(n == 0, ']')
		if err != nil || !more {
			return err
		}
		if s.next() == 'n' {
			return s.fail(wantElement)
		}
		v.Grow(1)
		v.SetLen(n + 1)
		if err := c.elem.decode(s, v.Index(n)); err != nil {
			return err
		}
	}
}

func (c listCodec) append(dst []byte, v reflect.Value) []byte {
	dst = append(dst, '[')
	for i := range v.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = c.elem.append(dst, v.Index(i))
	}
	return append(dst, ']')
}
func (listCodec) absent(v reflect.Value) bool { return v.IsNil() }

// mapCodec is for string maps, the only ones in the model: encryption contexts.
type mapCodec struct{}

func (mapCodec) decode(s *scanner, v reflect.Value) error {
	if err := s.open('{', wantObject); err != nil {
		return err
	}
	m := map[string]string{}
	for first := true; ; first = false {
		more, err := s.more(first, '}')
		if err != nil {
			return err
		}
		if !more {
			v.Set(reflect.ValueOf(m))
			return nil
		}
		key, err := s.key()
		if err != nil {
			return err
		}
		if s.next() == 'n' {
			return s.fail(wantElement)
		}
		value, err := s.text(wantString)
		if err != nil {
			return err
		}
		m[string(key)] = string(value)
	}
}

// append writes the keys in order, so that equal outputs have equal bytes.
func (mapCodec) append(dst []byte, v reflect.Value) []byte {
	m := v.Interface().(map[string]string)
	dst = append(dst, '{')
	for i, key := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendText(dst, key), ':')
		dst = appendText(dst, m[key])
	}
	return append(dst, '}')
}
func (mapCodec) absent(v reflect.Value) bool { return v.IsNil() }
