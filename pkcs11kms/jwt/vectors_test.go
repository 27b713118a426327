package jwt

import (
	"bytes"
	"context"
	"encoding/base64"
	"strings"
	"testing"

	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

// The vectors of RFC 7515 appendix A. Their tokens have no kid, so they go through the methods and not through a Verifier.
const (
	vectorClaims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"

	a1Key   = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
	a1Token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." + vectorClaims + ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	a2Token = "eyJhbGciOiJSUzI1NiJ9." + vectorClaims + ".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7" +
		"AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K" +
		"0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB" +
		"p0igcN_IoypGlUPQGe77Rw"
	a3Token = "eyJhbGciOiJFUzI1NiJ9." + vectorClaims + ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSA" +
		"pmWQxfKTUJqPP3-Kg6NU1Q"
	a4Token = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_" +
		"7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"

	vectorKeys = `{"keys":[
{"kid":"A.2","kty":"RSA","n":"` +
		"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgN" +
		"MsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xs" +
		"mtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" + `","e":"AQAB"},
{"kid":"A.3","kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
{"kid":"A.4","kty":"EC","crv":"P-521",
 "x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
 "y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}
]}`
)

// split takes a token apart without looking at it.
func split(t *testing.T, token string) (input string, signature []byte) {
	t.Helper()
	at := strings.LastIndex(token, ".")
	signature, err := base64.RawURLEncoding.DecodeString(token[at+1:])
	require.NoError(t, err)
	return token[:at], signature
}

// vectorSet returns the keys by kid.
func vectorSet(t *testing.T) map[string]*Key {
	t.Helper()
	set, err := ParseKeySet([]byte(vectorKeys))
	require.NoError(t, err)
	require.Empty(t, set.Ignored)
	keys, ignored, err := newFixedKeys(set, false)
	require.NoError(t, err)
	require.Empty(t, ignored)
	byKid := map[string]*Key{}
	for _, key := range keys {
		byKid[key.id] = key
	}
	return byKid
}

func TestVectorsOfRFC7515(t *testing.T) {
	keys := vectorSet(t)
	for kid, test := range map[string]struct {
		method *Method
		token  string
	}{"A.2": {RS256, a2Token}, "A.3": {ES256, a3Token}, "A.4": {ES512, a4Token}} {
		input, signature := split(t, test.token)
		require.NoError(t, test.method.Verify(input, signature, keys[kid]), kid)
		for i := range signature {
			changed := bytes.Clone(signature)
			changed[i] ^= 1
			require.ErrorIs(t, test.method.Verify(input, changed, keys[kid]), gojwt.ErrTokenSignatureInvalid)
		}
		require.ErrorIs(t, test.method.Verify(input+"A", signature, keys[kid]), gojwt.ErrTokenSignatureInvalid)
		require.ErrorIs(t, test.method.Verify(input, append(signature, 0), keys[kid]), gojwt.ErrTokenSignatureInvalid)
		for _, other := range Methods() {
			if other != test.method {
				want := gojwt.ErrTokenSignatureInvalid
				if !other.Fits(keys[kid].spec) {
					want = ErrAlgorithm
				}
				require.ErrorIs(t, other.Verify(input, signature, keys[kid]), want, "%s of %s", other.Alg(), kid)
			}
		}
		_, err := test.method.Sign(input, keys[kid])
		require.ErrorIs(t, err, errNoClient)
	}
}

// Open wants a kid, and a method that is among those that may be used; Claimed reads what nobody has proved.
func TestOpenWithVectors(t *testing.T) {
	set, err := ParseKeySet([]byte(vectorKeys))
	require.NoError(t, err)
	_, err = set.Open(a2Token, RS256)
	require.ErrorIs(t, err, ErrUnknownKey)
	require.ErrorIs(t, err, ErrInvalidToken)
	_, err = set.Open(a2Token, ES256, RS384)
	require.ErrorIs(t, err, ErrAlgorithm)
	_, err = set.Open(a1Token, Methods()...)
	require.ErrorIs(t, err, ErrAlgorithm, "a MAC is of no use with public keys")
	claims, err := Claimed(a2Token)
	require.NoError(t, err)
	require.JSONEq(t, `{"iss": "joe", "exp": 1300819380, "http://example.com/is_root": true}`, string(claims))
	_, err = Claimed(a2Token[1:])
	require.ErrorIs(t, err, ErrInvalidToken)
}

// derOf writes two numbers as they stand.
func derOf(r, s string) []byte {
	body := "\x02" + string(rune(len(r))) + r + "\x02" + string(rune(len(s))) + s
	return []byte("\x30" + string(rune(len(body))) + body)
}

func TestDERIsTakenInOneFormOnly(t *testing.T) {
	ones := strings.Repeat("\x01", 32)
	got, err := toJOSE(derOf(ones, "\x05"), 32)
	require.NoError(t, err)
	require.Equal(t, ones+strings.Repeat("\x00", 31)+"\x05", string(got))
	got, err = toJOSE(derOf("\x00\xff"+ones[1:], "\x05"), 32)
	require.NoError(t, err)
	require.Equal(t, "\xff"+ones[1:]+strings.Repeat("\x00", 31)+"\x05", string(got))
	for name, der := range map[string][]byte{
		"nothing":             nil,
		"zero":                derOf("\x00", "\x05"),
		"negative":            derOf("\x05", "\xff"),
		"negative and full":   derOf("\xff"+ones[1:], "\x05"),
		"33 bytes":            derOf("\x01"+ones, "\x05"),
		"not minimal":         derOf("\x00\x05", "\x05"),
		"empty number":        derOf("", "\x05"),
		"junk behind":         append(derOf("\x05", "\x05"), 0),
		"third number":        []byte("\x30\x09\x02\x01\x05\x02\x01\x05\x02\x01\x05"),
		"one number":          []byte("\x30\x03\x02\x01\x05"),
		"long form of length": []byte("\x30\x81\x06\x02\x01\x05\x02\x01\x05"),
		"indefinite length":   []byte("\x30\x80\x02\x01\x05\x02\x01\x05\x00\x00"),
		"set":                 []byte("\x31\x06\x02\x01\x05\x02\x01\x05"),
		"cut":                 derOf(ones, ones)[:60],
		"r and s":             []byte(ones + ones),
	} {
		_, err := toJOSE(der, 32)
		require.ErrorIs(t, err, errNoSignature, name)
	}
}

// FuzzDER: whatever is taken has one form in DER and one in JOSE.
func FuzzDER(f *testing.F) {
	f.Add(derOf("\x05", "\x05"), uint8(32))
	f.Add(derOf("\x00\xff"+strings.Repeat("\x01", 31), strings.Repeat("\x01", 32)), uint8(32))
	f.Add([]byte("\x30\x80\x02\x01\x05\x02\x01\x05\x00\x00"), uint8(66))
	f.Fuzz(func(t *testing.T, der []byte, width uint8) {
		signature, err := toJOSE(der, int(width))
		if err != nil {
			return
		}
		require.Len(t, signature, 2*int(width))
		require.Equal(t, der, fromJOSE(signature))
	})
}

// FuzzToken: a token that is taken apart is, put together again, the same text; and none but the signed one verifies.
func FuzzToken(f *testing.F) {
	for _, seed := range []string{a1Token, a2Token, a3Token, "..", "e30.e30.",
		encodeSegment([]byte(`{"alg":"ES256","kid":"A.3"}`)) + ".e30.AAAA"} {
		f.Add(seed)
	}
	set, err := ParseKeySet([]byte(vectorKeys))
	require.NoError(f, err)
	v, err := NewVerifier(VerifierConfig{KeySet: set})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, text string) {
		require.ErrorIs(t, v.Verify(context.Background(), text, nil), ErrInvalidToken)
		_, err := set.Open(text, Methods()...)
		require.ErrorIs(t, err, ErrInvalidToken)
		p, err := parse(text)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalidToken)
			return
		}
		require.Equal(t, text, p.input+"."+encodeSegment(p.signature))
	})
}

// FuzzKeySet: what is read can be written and is then read as the same.
func FuzzKeySet(f *testing.F) {
	f.Add([]byte(vectorKeys))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		set, err := ParseKeySet(doc)
		if err != nil {
			return
		}
		text, err := marshal(set)
		require.NoError(t, err)
		again, err := ParseKeySet(text)
		require.NoError(t, err)
		require.Equal(t, set.Keys, again.Keys)
		require.Empty(t, again.Ignored)
	})
}
