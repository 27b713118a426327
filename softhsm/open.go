package softhsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// attempts is how often open looks at the slots before it gives up, with pauses that grow by pause.
const (
	attempts = 8
	pause    = 5 * time.Millisecond
)

// open initialises the module, unless it is, and lists its slots.
//
// While another process logs in, SoftHSM rewrites that token's file in place. Whoever reads it at that moment sees no
// token at all, one without a serial number, or one that looks uninitialised. CreateToken would give a label twice then,
// or initialise a token that holds keys. So the slots are looked at until they agree with the token directory, or, where
// that is no measure, until two looks agree.
func (c *Config) open(m *module) (slots []slot, finalize func() error, err error) {
	var before []slot
	for attempt := range attempts {
		time.Sleep(time.Duration(attempt) * pause)
		owned, err := m.initialize()
		if err != nil {
			return nil, nil, fmt.Errorf("reading SoftHSM configuration %q: %w", c.File, err)
		}
		finalize = func() error { return m.finalize(owned) }
		slots, err = m.slots()
		if err != nil {
			return nil, nil, errors.Join(err, finalize())
		}
		// A running module does not show tokens that other processes made since it started. And a token that stays
		// invisible to the end is a damaged one.
		same := slices.Equal(slots, before) && (!owned || attempt == attempts-1)
		if legible(slots) && (same || owned && c.complete(slots)) {
			return slots, finalize, nil
		}
		if err := finalize(); err != nil {
			return nil, nil, err
		}
		before = slots
	}
	return nil, nil, errors.New("listing tokens: other processes keep changing them")
}

// legible tells whether every initialised token has its serial number.
func legible(slots []slot) bool {
	return !slices.ContainsFunc(slots, func(s slot) bool { return s.tokenInitialized() && s.info.SerialNumber == "" })
}

// complete tells whether the slots show every token that is in the token directory.
func (c *Config) complete(slots []slot) bool {
	shown := 0
	for _, s := range slots {
		if s.tokenInitialized() {
			shown++
		}
	}
	files, err := fs.Glob(os.DirFS(c.TokenDir), "*/token.object")
	return err == nil && shown >= len(files)
}
