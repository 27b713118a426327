package token_test

import (
	"context"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

func TestSelfTestsByPublishedAnswers(t *testing.T) {
	tests := newToken(t).SelfTests()
	require.Len(t, tests, 4)
	for _, test := range tests {
		assert.True(t, test.Known, test.Hash)
		assert.NoError(t, test.Err, test.Hash)
	}
}

// A token that takes no key of known value, as FIPS modes must not, is tested by two MACs, and that is said.
func TestSelfTestsOfATokenThatTakesNoValues(t *testing.T) {
	cfg, m := newConfigThrough(t)
	m.AtStart("on C_CreateObject fail CKR_ATTRIBUTE_VALUE_INVALID")
	tok := open(t, cfg)
	require.Len(t, tok.SelfTests(), 4)
	for _, test := range tok.SelfTests() {
		assert.False(t, test.Known, test.Hash)
		assert.NoError(t, test.Err, test.Hash)
	}
	require.NoError(t, tok.Healthy(t.Context()))
}

// A token whose answers are wrong is not fit; one that could not be tested is.
func TestATokenThatAnswersWrongly(t *testing.T) {
	for name, tc := range map[string]struct {
		rules []string
		known bool
	}{
		"other than published":  {[]string{"on C_Sign flip"}, true},
		"differently each time": {[]string{"on C_CreateObject fail CKR_ATTRIBUTE_VALUE_INVALID", "on C_Sign flip every=2"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, m := newConfigThrough(t)
			for _, rule := range tc.rules {
				m.AtStart(rule)
			}
			tok := open(t, cfg)
			wrong := 0
			for _, test := range tok.SelfTests() {
				assert.Equal(t, tc.known, test.Known)
				if test.Err != nil {
					require.ErrorIs(t, test.Err, token.ErrWrong)
					wrong++
				}
			}
			require.Positive(t, wrong)
			m.Do("clear")
			require.ErrorIs(t, tok.Healthy(t.Context()), token.ErrWrong)
		})
	}
}

func TestPromisesOfSoftHSM(t *testing.T) {
	p, err := newToken(t).TryPromises(context.Background())
	require.NoError(t, err)
	require.NoError(t, p.Wrap)
	require.Equal(t, token.DuplicatesStay, p.Duplicates)
}

// leaking wraps what it should not, as NSS does.
type leaking struct {
	token.Module
	byAES bool // and not by a public key
}

func (l leaking) WrapKey(_ pkcs11.SessionHandle, m []*pkcs11.Mechanism, _, _ pkcs11.ObjectHandle) ([]byte, error) {
	if m[0].Mechanism == pkcs11.CKM_RSA_PKCS && l.byAES {
		return nil, pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID)
	}
	return make([]byte, 256), nil
}

func TestATokenThatGivesItsKeysAway(t *testing.T) {
	for _, byAES := range []bool{false, true} {
		cfg, _ := newConfig(t)
		cfg.SetWrap(func(m token.Module) token.Module { return leaking{m, byAES} })
		p, err := open(t, cfg).TryPromises(t.Context())
		require.NoError(t, err)
		require.ErrorIs(t, p.Wrap, token.ErrLeaves)
	}
}

// What could not be tried is said as such.
func TestPromisesThatCannotBeTried(t *testing.T) {
	cfg, m := newConfigThrough(t)
	tok := open(t, cfg)
	m.Do("on C_WrapKey fail CKR_FUNCTION_NOT_SUPPORTED")
	p, err := tok.TryPromises(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, p.Wrap, token.ErrUntriable)
	m.Do("clear")
	m.Do("on C_GenerateKey fail CKR_DEVICE_MEMORY")
	p, err = tok.TryPromises(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, p.Wrap, token.ErrUntriable)
	require.Equal(t, token.DuplicatesUntried, p.Duplicates)
	m.Do("clear")
	m.Do("on C_GenerateKey fail CKR_ATTRIBUTE_VALUE_INVALID skip=1")
	p, err = tok.TryPromises(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, token.DuplicatesStay, p.Duplicates)
}
