package token

// Module is the interface behind which the C_ functions are, for tests that put one of their own in front.
type Module = module

// SetWrap makes Open put a module in front of the real one.
func (c *Config) SetWrap(wrap func(Module) Module) { c.wrap = wrap }
