package token_test

import (
	"context"
	"strings"
	"testing"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pinInputs are the ways by which a PIN comes in: a configuration with the text in each of them, by name.
func pinInputs(t *testing.T, text string, exact bool) map[string]token.Config {
	t.Helper()
	cfg, tok := newConfig(t)
	file, callback := withPINFile(cfg, tok, writePIN(t, text, 0o600)), cfg
	callback.URI = tok.URI("")
	callback.PIN = func(context.Context) (string, error) { return text, nil }
	if exact {
		file.URI += "&pin-exact=true"
		callback.URI += "&pin-exact=true"
	}
	return map[string]token.Config{"file": file, "callback": callback}
}

func readPIN(t *testing.T, cfg token.Config) (string, error) {
	t.Helper()
	uri, err := token.ParseURI(cfg.URI)
	require.NoError(t, err)
	return token.ReadPIN(t.Context(), uri, cfg.PIN)
}

// TestOneRuleForEveryPINInput: what is certainly no part of a PIN is removed, what may be none is refused before C_Login, and
// pin-exact takes every byte.
func TestOneRuleForEveryPINInput(t *testing.T) {
	const pin, bom = "1234 5ä78", "\ufeff"
	for text, want := range map[string]string{
		pin: pin, pin + "\n": pin, pin + "\r\n": pin, bom + pin: pin, bom + pin + "\r\n": pin, "user:pass\\word\n": "user:pass\\word",
		"\xe4\xb5\x80latin": "\xe4\xb5\x80latin", "latin\xe4": "latin\xe4", // not UTF-8: the token's matter
	} {
		for name, cfg := range pinInputs(t, text, false) {
			got, err := readPIN(t, cfg)
			assert.NoError(t, err, "%s %q", name, text)
			assert.Equal(t, want, got, "%s %q", name, text)
		}
	}
	for text, says := range map[string]string{
		"": "is empty", "\n": "is empty", "\r\n": "is empty", bom: "is empty", bom + "\n": "is empty",
		" " + pin: "white space", pin + " ": "white space", "\t" + pin: "white space", pin + "\t\n": "white space",
		pin + "\u00a0": "white space", pin + " \r\n": "white space", bom + " " + pin: "white space",
		pin + "\n\n": "more than one line", pin + "\r": "more than one line", "\n" + pin: "more than one line",
		"# comment\n" + pin: "more than one line",
		"12\x0034":          "control character", "12\t34": "control character", "12\x7f34": "control character",
		"12\u008534":              "control character",
		"1\x002\x003\x004\x00":    "control character",
		strings.Repeat("x", 1025): "too large",
	} {
		for name, cfg := range pinInputs(t, text, false) {
			f := newFaulty(&cfg)
			e := requireRefused(t, cfg, token.PINSource, pin)
			assert.Contains(t, e.Error(), says, "%s %q", name, text)
			assert.Zero(t, f.count("C_Login"), "%s %q: an attempt was spent", name, text)
			_, err := readPIN(t, cfg)
			assert.ErrorContains(t, err, says, "%s %q", name, text)
		}
	}
	for _, text := range []string{pin, pin + "\n", bom + pin, " " + pin, "12\x0034", "\n"} {
		for name, cfg := range pinInputs(t, text, true) {
			got, err := readPIN(t, cfg)
			assert.NoError(t, err, "%s %q", name, text)
			assert.Equal(t, text, got, "%s %q", name, text)
		}
	}
	for name, cfg := range pinInputs(t, "", true) {
		_, err := readPIN(t, cfg)
		assert.ErrorContains(t, err, "is empty", name)
	}
}

// TestExactPINAtTheToken: with pin-exact a line end belongs to the PIN, so this one is another.
func TestExactPINAtTheToken(t *testing.T) {
	cfg, tok := newConfig(t)
	exact := func(text string) token.Config {
		c := withPINFile(cfg, tok, writePIN(t, text, 0o600))
		c.URI += "&pin-exact=true"
		return c
	}
	requireRefused(t, exact(tok.PIN()+"\n"), token.PINRefused, tok.PIN())
	right := exact(tok.PIN())
	right.TryLowPIN = true
	open(t, right)
}

func TestReadPINWantsAPrivateFile(t *testing.T) {
	cfg, tok := newConfig(t)
	_, err := readPIN(t, withPINFile(cfg, tok, writePIN(t, "just an example", 0o644)))
	var e *token.OpenError
	require.ErrorAs(t, err, &e)
	assert.Equal(t, token.PINSource, e.Reason)
}
