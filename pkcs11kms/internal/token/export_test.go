package token

// Module is the interface behind which the C_ functions are, for tests that put one of their own in front.
type Module = module

// SetWrap makes Open put a module in front of the real one.
func (c *Config) SetWrap(wrap func(Module) Module) { c.wrap = wrap }

// OneAtATime puts in front of a module what lets one call at a time in, and counts as the one that is inside until leave.
func OneAtATime(m Module) (through Module, leave func()) {
	s := serialized{&loadedModule{}, m}
	return s, s.alone()
}
