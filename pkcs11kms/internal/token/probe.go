package token

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"
)

// HashCapability is what the probe found out about one hash. A nil error means that it works.
type HashCapability struct {
	Hash     Hash
	Generate error // of C_GenerateKey with the length of KeyBytes
	Sign     error // of a MAC with the generated key
}

// Err returns nil if keys for the hash can be generated and used, and ErrUntried if nobody knows.
func (c HashCapability) Err() error {
	if c.Generate != nil {
		return c.Generate
	}
	return c.Sign
}

// Capabilities is what the token can do, found by trying with session objects at Open: what C_GetMechanismInfo says of
// itself is wrong on several tokens.
type Capabilities struct {
	HMAC              []HashCapability // one for each of Hashes, in their order
	AllowedMechanisms bool             // a key with CKA_ALLOWED_MECHANISMS refuses other mechanisms
	ValueTried        bool             // a key could be made, so that it is known whether its value can be read
	ValueReadRefused  bool             // reading the value of a sensitive key is refused, of every key that was made
	Streams           bool             // NewStream works
	IDBytes           int              // length of CKA_ID that keys are to have
	MaxSessions       int              // sessions in use at once: what was configured, or the token's limit
}

// For returns what the probe found about one hash.
func (c Capabilities) For(h Hash) HashCapability {
	for _, found := range c.HMAC {
		if found.Hash == h {
			return found
		}
	}
	return HashCapability{Hash: h, Generate: errNotProbed, Sign: errNotProbed}
}

var errNotProbed = errors.New("not a hash function of this package")

// Capabilities returns what the probe found at Open.
func (t *Token) Capabilities() Capabilities {
	caps := t.facts().caps
	caps.HMAC = append([]HashCapability(nil), caps.HMAC...)
	return caps
}

// probeMessage is what the probe signs; its content does not matter.
var probeMessage = []byte("pkcs11kms probe")

// probeLabel is as long as the labels of keys are.
const probeLabel = "pkcs11kms/probe/0000-0000-0000-00000"

// probeID is as long as the ids of keys are.
func (t *Token) probeID() []byte { return []byte("pkcs11kms probe!")[:t.facts().quirk.maxIDBytes()] }

// probeTries is how often something is tried that has met an error which is no refusal.
const probeTries = 2

// probe tries out the token. Open succeeds whatever it finds: a token without SHA-224 still serves the others. Of one that is known to make
// no keys that end with their session nothing is asked.
func (t *Token) probe(ctx context.Context) {
	before := t.recall(ctx)
	caps := Capabilities{Streams: !t.facts().quirk.noStream, IDBytes: t.facts().quirk.maxIDBytes(), MaxSessions: t.pool.max}
	if before.NoSessionKeys {
		for _, h := range Hashes() {
			caps.HMAC = append(caps.HMAC, HashCapability{Hash: h, Generate: errNoSessionKeys})
		}
		t.learn(func(known *facts) { known.noSessionKeys = true })
	} else {
		t.probeAll(&caps)
	}
	t.believe(before)
	t.learn(func(known *facts) { known.caps, known.complete = caps, true })
}

// probeAll tries all that can be tried by keys that end with their session.
func (t *Token) probeAll(caps *Capabilities) {
	off := t.probeUses()
	t.learn(func(known *facts) { known.off = off })
	for _, h := range Hashes() {
		caps.HMAC = append(caps.HMAC, t.probeHash(h, caps))
	}
	makes := func(c HashCapability) bool { return c.Generate == nil }
	t.learn(func(known *facts) {
		known.sessionKeys, known.noSessionKeys = slices.ContainsFunc(caps.HMAC, makes), noSessionKeys(caps.HMAC)
	})
	for i := range caps.HMAC {
		t.untried(&caps.HMAC[i])
	}
	for try, sure := 1, false; !sure && try <= probeTries; try++ {
		caps.AllowedMechanisms, sure = t.probeAllowedMechanisms(*caps)
	}
	t.probeEdwards()
}

// noSessionKeys tells whether the token has refused all keys that end with their session, and some for that.
func noSessionKeys(found []HashCapability) bool {
	template := false
	for _, c := range found {
		e, answered := errors.AsType[*Error](c.Generate)
		if !answered || !e.refusesKind() {
			return false
		}
		template = template || e.refusesTemplate()
	}
	return template
}

// probeHash makes and uses a key for h, and tries to read its value.
func (t *Token) probeHash(h Hash, caps *Capabilities) (c HashCapability) {
	for range probeTries {
		c = HashCapability{Hash: h}
		c.Generate = t.withProbeKey(h, h.KeyBytes(), nil, func(s *session, object pkcs11.ObjectHandle) {
			_, c.Sign = s.signWith(h, object, probeMessage)
			caps.ValueReadRefused = s.refusesValue(object) && (caps.ValueReadRefused || !caps.ValueTried)
			caps.ValueTried = true
		})
		if err := c.Err(); err == nil || refusesKind(err) {
			break
		}
	}
	return c
}

// untried marks what the probe has met and what says nothing of the kind of key: any error that is no refusal and, where no key that ends
// with its session could be made, the refusal of the template.
func (t *Token) untried(c *HashCapability) {
	for _, err := range []*error{&c.Generate, &c.Sign} {
		e, answered := errors.AsType[*Error](*err)
		if *err != nil && (!answered || !e.refusesKind() || e.refusesTemplate() && !t.facts().sessionKeys) {
			*err = fmt.Errorf("%w: %w", ErrUntried, *err)
		}
	}
}

// withProbeKey generates a session key, uses it, and destroys it, on a session of its own: a call that fails may leave its
// operation active and spoil what is tried next.
func (t *Token) withProbeKey(h Hash, bytes int, more []*pkcs11.Attribute, use func(*session, pkcs11.ObjectHandle)) error {
	template := t.withLength(t.keyTemplate(t.facts().off, h, t.probeID(), probeLabel, false), bytes)
	template = append(template, more...)
	s := &session{token: t}
	defer s.close()
	return s.run(&operation{run: func(s *session, _ []byte) error {
		object, err := t.c.GenerateKey(s.handle, t.facts().quirk.generateMechanism(h), template)
		if err != nil {
			return wrapRV("C_GenerateKey", err)
		}
		use(s, object)
		if err := t.c.DestroyObject(s.handle, object); err != nil {
			t.log.Debug("destroying the probe's session key", "error", wrapRV("C_DestroyObject", err))
		}
		return nil
	}}, nil)
}

// probeUses returns which of notForMAC the token can be told: all of them, as most can, or those that it takes one by one.
func (t *Token) probeUses() (off []uint) {
	takes := func(uses ...uint) bool {
		for _, h := range Hashes() {
			if t.withProbeKey(h, h.KeyBytes(), switchedOff(uses), func(*session, pkcs11.ObjectHandle) {}) == nil {
				return true
			}
		}
		return false
	}
	if takes(notForMAC...) {
		return notForMAC
	}
	for _, use := range notForMAC {
		if takes(append(off, use)...) {
			off = append(off, use)
		}
	}
	return off
}

func (s *session) refusesValue(object pkcs11.ObjectHandle) bool {
	for range probeTries {
		value, err := s.token.c.GetAttributeValue(s.handle, object, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
		if err == nil {
			return len(value) == 0 || len(value[0].Value) == 0
		}
		if isRV(wrapRV("C_GetAttributeValue", err), pkcs11.CKR_ATTRIBUTE_SENSITIVE) {
			return true
		}
	}
	return false
}

// probeAllowedMechanisms restricts a key to one mechanism and tries another that is known to work. The key is as long as
// the longest hash wants, so that its length is no reason for a refusal.
// It is sure unless it has met an error that is no refusal.
func (t *Token) probeAllowedMechanisms(caps Capabilities) (honoured, sure bool) {
	var working []Hash
	for _, c := range caps.HMAC {
		if c.Err() == nil {
			working = append(working, c.Hash)
		}
	}
	if len(working) < 2 || t.facts().quirk.ownKeyType {
		return false, true // nothing to try it with, or the key's type restricts it already
	}
	only, other := working[0], working[1]
	var allowed, refused error
	err := t.withProbeKey(only, SHA512.KeyBytes(), []*pkcs11.Attribute{mechanismList(only.Mechanism())},
		func(s *session, object pkcs11.ObjectHandle) {
			_, allowed = s.signWith(only, object, probeMessage)
			_, refused = s.signWith(other, object, probeMessage)
		})
	if err = cmp.Or(err, allowed); err != nil {
		return false, refusesKind(err)
	}
	e, answered := errors.AsType[*Error](refused)
	return answered && e.Func == "C_SignInit" && !e.DeviceLost(), refused == nil || answered && !e.DeviceLost()
}
