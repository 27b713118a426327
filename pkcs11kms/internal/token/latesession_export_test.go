package token

// TakeFree takes the free sessions out of the pool, and returns what closes them: the two steps that examine takes, with a moment
// between.
func (t *Token) TakeFree() (leave func()) {
	sessions := t.pool.dropFree()
	return func() { t.retire(sessions) }
}
