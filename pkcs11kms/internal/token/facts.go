package token

import "time"

// facts is what is known of the token since it was first reached. One is never changed after it was published.
type facts struct {
	info     Info
	quirk    quirk
	lockFile string // what a change of the token's objects locks, if the quirk says so
	caps     Capabilities
	off      []uint // of notForMAC: what the token can be told that an HMAC key is not for
	tests    []SelfTest
	// sessionKeys: the token makes keys that end with their session, so that what it can do could be tried.
	sessionKeys bool
	// noSessionKeys: it has refused to make any, for what it was told of them. Else it may have been in trouble.
	noSessionKeys bool
	edwardsSeen   bool      // a pair of Ed25519 that ends with its session was made and tried, or refused
	since         time.Time // see Learnt
	recalled      []Kind    // kinds of keys that were made and used before, as another process has learnt
	complete      bool      // the token was probed, so that Open has succeeded once
}

// nothing is what is known of a token that was never reached.
var nothing = &facts{}

// facts returns what is known of the token.
func (t *Token) facts() *facts {
	if f := t.known.Load(); f != nil {
		return f
	}
	return nothing
}

// learn publishes more. One goroutine at a time learns: the one that connects.
func (t *Token) learn(more func(*facts)) {
	f := *t.facts()
	more(&f)
	t.known.Store(&f)
}
