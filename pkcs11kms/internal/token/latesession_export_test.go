package token

// TakeFree takes the free sessions out of the pool, and returns what closes them: the two steps that examine takes, with a moment
// between.
func (t *Token) TakeFree() (leave func()) {
	sessions := t.pool.dropFree()
	return func() { t.retire(sessions) }
}

// Borrow takes a session out of the pool, and returns what makes a MAC on it and gives it back: the two steps that a call takes, with a
// moment between.
func (t *Token) Borrow() (mac func(*Key, []byte) error, err error) {
	s, err := t.pool.acquire(t.closing, t.timeout)
	return func(k *Key, message []byte) error {
		err := s.run(&operation{name: "C_Sign", run: func(s *session, _ []byte) error {
			_, err := s.mac(k, message)
			return err
		}}, nil)
		t.giveBack(s, err)
		return err
	}, err
}

// HoldPool has whoever wants something of the pool wait, until release.
func (t *Token) HoldPool() (release func()) {
	t.pool.mu.Lock()
	return t.pool.mu.Unlock
}

// NextSession returns what tells whether the session that is lent next is in a call that its caller has left alone.
func (t *Token) NextSession() (abandoned func() bool) {
	t.pool.mu.Lock()
	defer t.pool.mu.Unlock()
	return t.pool.free[len(t.pool.free)-1].abandoned
}
