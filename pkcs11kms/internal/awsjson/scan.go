package awsjson

// MaxDepth is how deep objects and lists of a body may nest, the body's own object included. The model needs five.
const MaxDepth = 32

// scanner reads the tokens of a body that is known to be valid UTF-8. It has one user.
type scanner struct {
	data  []byte
	pos   int
	depth int

	emptyEnums []string // paths of such members, below the structure that is being read
}

func (s *scanner) fail(reason string) error {
	return &SerializationError{Reason: reason, Offset: s.pos}
}

// next passes over white space and returns the byte that follows, 0 at the end. A zero byte in the body needs no
// distinction from the end: it cannot begin or follow any token.
func (s *scanner) next() byte {
	for ; s.pos < len(s.data); s.pos++ {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// word consumes w, one of null, true and false, if it comes next. What follows it is left to the next call.
func (s *scanner) word(w string) bool {
	if s.next() != w[0] || len(s.data)-s.pos < len(w) || string(s.data[s.pos:s.pos+len(w)]) != w {
		return false
	}
	s.pos += len(w)
	return true
}

// open enters an object or a list. reason is the error's text if there is none.
func (s *scanner) open(bracket byte, reason string) error {
	if s.next() != bracket {
		return s.fail(reason)
	}
	if s.depth == MaxDepth {
		return s.fail(tooDeep)
	}
	s.depth++
	s.pos++
	return nil
}

// more goes to the next element of the object or list that bracket ends, or leaves it.
func (s *scanner) more(first bool, bracket byte) (bool, error) {
	switch c := s.next(); {
	case c == bracket:
		s.pos++
		s.depth--
		return false, nil
	case first:
		return true, nil
	case c != ',':
		return false, s.fail(wantComma)
	}
	s.pos++
	// Without this, a comma before the closing bracket would pass for the end.
	if s.next() == bracket {
		return false, s.fail(wantValue)
	}
	return true, nil
}

// key reads a member's name and the colon behind it. The result is valid until the body changes.
func (s *scanner) key() ([]byte, error) {
	name, err := s.text(wantName)
	if err != nil {
		return nil, err
	}
	if s.next() != ':' {
		return nil, s.fail(wantColon)
	}
	s.pos++
	return name, nil
}

// number reads a number and returns it as it stands in the body. reason is the error's text if there is none.
func (s *scanner) number(reason string) ([]byte, error) {
	if c := s.next(); c != '-' && !isDigit(c) {
		return nil, s.fail(reason)
	}
	start := s.pos
	s.accept('-', '-')
	if !s.accept('0', '0') && !s.digits() {
		return nil, s.fail(badNumber)
	}
	if s.accept('.', '.') && !s.digits() {
		return nil, s.fail(badNumber)
	}
	if s.accept('e', 'E') {
		s.accept('+', '-')
		if !s.digits() {
			return nil, s.fail(badNumber)
		}
	}
	return s.data[start:s.pos], nil
}

// accept consumes one byte if it is a or b.
func (s *scanner) accept(a, b byte) bool {
	if s.pos == len(s.data) || s.data[s.pos] != a && s.data[s.pos] != b {
		return false
	}
	s.pos++
	return true
}

// digits consumes decimal digits and reports whether there was one.
func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.data) && isDigit(s.data[s.pos]) {
		s.pos++
	}
	return s.pos > start
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// skip reads a value of any type and forgets it.
func (s *scanner) skip() error {
	switch c := s.next(); c {
	case '{':
		return s.skipObject()
	case '[':
		return s.skipList()
	case '"':
		_, _, err := s.quoted(wantString)
		return err
	case 't', 'f', 'n':
		if s.word("true") || s.word("false") || s.word("null") {
			return nil
		}
	}
	_, err := s.number(wantValue)
	return err
}

func (s *scanner) skipObject() error {
	if err := s.open('{', wantObject); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := s.more(first, '}')
		if err != nil || !more {
			return err
		}
		if _, err := s.key(); err != nil {
			return err
		}
		if err := s.skip(); err != nil {
			return err
		}
	}
}

func (s *scanner) skipList() error {
	if err := s.open('[', wantList); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := s.more(first, ']')
		if err != nil || !more {
			return err
		}
		if err := s.skip(); err != nil {
			return err
		}
	}
}
