package token

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// A token is tested each time that it is opened, before any call is let in: by a MAC that is published, where it takes a key of known
// value for its session; where it does not, as FIPS modes must not, by two MACs that must be equal. A wrong answer makes the token unfit
// (Healthy says so); a test that cannot be run says nothing.

// ErrWrong says that the token's answer was wrong when it was tested.
var ErrWrong = errors.New("the token's answer is wrong")

// SelfTest is what testing one hash function has shown.
type SelfTest struct {
	Hash  Hash
	Known bool  // the answer was compared with a published one, else with another of the token's own
	Err   error // nil if it was right, ErrWrong if not, or why it could not be tested
}

// The answers are those of RFC 4231, section 4.7 (test case 6): its key is longer than any block, so that every token takes it.
var (
	knownKey     = bytes.Repeat([]byte{0xaa}, 131)
	knownMessage = []byte("Test Using Larger Than Block-Size Key - Hash Key First")
	knownAnswers = map[Hash]string{
		SHA224: "95e9a0db962095adaebe9b2d6f0dbce2d499f112f2d2b7273fa6870e",
		SHA256: "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
		SHA384: "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
		SHA512: "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352" +
			"6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
	}
)

// SelfTests returns what the tests at the first connection have shown, of each hash function that the token can do.
func (t *Token) SelfTests() []SelfTest { return append([]SelfTest(nil), t.facts().tests...) }

// wrong returns the wrong answers, which nothing but another opening forgets.
func (t *Token) wrong() error {
	var wrong []error
	for _, test := range t.facts().tests {
		if errors.Is(test.Err, ErrWrong) {
			wrong = append(wrong, fmt.Errorf("HMAC with %v: %w", test.Hash, test.Err))
		}
	}
	return errors.Join(wrong...)
}

// selfTests tests the hash functions that the probe has found to work.
func (t *Token) selfTests() {
	var tests []SelfTest
	for _, found := range t.facts().caps.HMAC {
		if found.Err() == nil {
			tests = append(tests, t.selfTest(found.Hash))
		}
	}
	t.learn(func(known *facts) { known.tests = tests })
}

func (t *Token) selfTest(h Hash) SelfTest {
	if right, err := t.knownMAC(h); err == nil {
		return SelfTest{h, true, unless(right)}
	}
	equal, err := t.equalMACs(h)
	if err == nil {
		err = unless(equal)
	}
	return SelfTest{h, false, err}
}

func unless(right bool) error {
	if right {
		return nil
	}
	return ErrWrong
}

// knownMAC makes the MAC of a published key and message. An error says that it could not be made.
func (t *Token) knownMAC(h Hash) (right bool, err error) {
	err = t.onOwnSession(func(s *session) error {
		object, err := t.c.CreateObject(s.handle, t.knownTemplate(h))
		if err != nil {
			return wrapRV("C_CreateObject", err)
		}
		defer s.discard(object)
		tag, err := s.signWith(h, object, knownMessage)
		right = hex.EncodeToString(tag) == knownAnswers[h]
		return err
	})
	return right, err
}

// equalMACs makes two MACs by one throw-away key. An error says that they could not be made.
func (t *Token) equalMACs(h Hash) (equal bool, err error) {
	var signErr error
	err = t.withProbeKey(h, h.KeyBytes(), nil, func(s *session, object pkcs11.ObjectHandle) {
		one, oneErr := s.signWith(h, object, knownMessage)
		other, otherErr := s.signWith(h, object, knownMessage)
		equal, signErr = bytes.Equal(one, other), errors.Join(oneErr, otherErr)
	})
	return equal, errors.Join(err, signErr)
}

// knownTemplate asks for a session key of known value.
func (t *Token) knownTemplate(h Hash) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, t.facts().quirk.keyType(h)),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, "pkcs11kms/self-test"),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, knownKey),
	}
}

// onOwnSession runs use on a session of its own: a call that fails may leave its operation active and spoil what is tried next.
func (t *Token) onOwnSession(use func(*session) error) error {
	s := &session{token: t}
	defer s.close()
	return s.run(&operation{run: func(s *session, _ []byte) error { return use(s) }}, nil)
}

// discard destroys a session object.
func (s *session) discard(object pkcs11.ObjectHandle) {
	if err := s.token.c.DestroyObject(s.handle, object); err != nil {
		s.token.log.Debug("destroying a session object", "error", wrapRV("C_DestroyObject", err))
	}
}
