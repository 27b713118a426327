package token

import (
	"errors"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// quirk is what is known of a vendor's token and cannot be found by trying. What can be found by trying (missing hash
// functions, CKA_ALLOWED_MECHANISMS) is the probe's.
type quirk struct {
	manufacturer string // prefix of CK_TOKEN_INFO.manufacturerID
	model        string // prefix of CK_TOKEN_INFO.model; empty for every model
	library      string // prefix of CK_INFO.manufacturerID; empty for every module

	lockChanges   bool // processes that change objects at once miss each other's, or fail; see change.go
	lockStore     bool // by the store of tpm2-pkcs11, not by SoftHSM's configuration
	losesSight    bool // objects whose files could not be read once are lost to the process; see sight.go
	searchesAll   bool // C_FindObjects looks at every object of the token; see index.go
	takesTurns    bool // two MACs at once take longer than one after the other; see direct.go
	keepsHalfMade bool // what a process was making that was killed stays as an object without a name and a key; see halfmade.go
	// staleHandlesErr: the handle of an object that another client has destroyed is an error, never another object's; see handle.go.
	staleHandlesErr bool
	noStream        bool          // C_SignFinal crashes the process, or fails
	alwaysDecrypts  bool          // no pair is made when CKA_ENCRYPT or CKA_DECRYPT is to be false
	useless         []pubkey.Spec // pairs that the module makes, and can neither use nor destroy
	idBytes         int           // the longest CKA_ID, if it is under 16
	noValueLen      bool          // CKA_VALUE_LEN is refused; the key type says the length
	ownKeyType      bool          // keys are CKK_SHAxxx_HMAC, not CKK_GENERIC_SECRET
	keyGen          map[Hash]uint // mechanism to generate with, instead of CKM_GENERIC_SECRET_KEY_GEN
}

var quirks = []quirk{
	// Measured with SoftHSM 2.6.1; the figures stand in change.go, sight.go, halfmade.go and index.go.
	// SoftHSM and NSS, also behind p11-kit: a handle stays an error when its object was destroyed and others were made and found.
	{manufacturer: "SoftHSM", lockChanges: true, losesSight: true, searchesAll: true, takesTurns: true, keepsHalfMade: true,
		staleHandlesErr: true},
	{manufacturer: "Mozilla", staleHandlesErr: true},
	// Measured with opencryptoki 3.8.1: asking C_SignFinal for the length of the MAC, as miekg/pkcs11 does, is a segmentation
	// fault in the library. All its tokens name IBM as manufacturer and share that library.
	// Its handles are given out again. A TPM of IBM's simulator, by tpm2-pkcs11, names IBM as well, and is another library's.
	{manufacturer: "IBM", library: "IBM", noStream: true},
	// Entrust nShield, PKCS#11 library user guide, "HMAC mechanisms": keys for HMAC have a type and a generation mechanism
	// of their own; a generic secret is refused with CKR_TEMPLATE_INCONSISTENT.
	{manufacturer: "nCipher", ownKeyType: true, keyGen: nShieldKeyGen},
	{manufacturer: "Entrust", ownKeyType: true, keyGen: nShieldKeyGen},
	// Yubico, "PKCS#11 with YubiHSM 2", sections on object ids and C_GenerateKey: CKA_ID is the 16-bit object id, the key type
	// says the length, and CKA_VALUE_LEN is refused.
	{manufacturer: "Yubico", model: "YubiHSM", idBytes: 2, noValueLen: true, ownKeyType: true},
	// Measured with tpm2-pkcs11 1.9.0, whatever the maker of the TPM: CKA_ENCRYPT false and CKA_DECRYPT false are CKR_GENERAL_ERROR,
	// since a TPM has one permission for signing and encrypting. C_SignFinal of an HMAC is CKR_BUFFER_TOO_SMALL. Of P-521 it writes a
	// CKA_EC_POINT that is not DER and that it cannot read: C_SignInit is CKR_HOST_MEMORY, and from then on C_DestroyObject is
	// CKR_FUNCTION_FAILED.
	{library: "tpm2-software", lockChanges: true, lockStore: true, alwaysDecrypts: true, noStream: true, useless: []pubkey.Spec{pubkey.P521}},
}

var nShieldKeyGen = map[Hash]uint{
	SHA224: pkcs11.CKM_NC_SHA224_HMAC_KEY_GEN, SHA256: pkcs11.CKM_NC_SHA256_HMAC_KEY_GEN,
	SHA384: pkcs11.CKM_NC_SHA384_HMAC_KEY_GEN, SHA512: pkcs11.CKM_NC_SHA512_HMAC_KEY_GEN,
}

// usualIDBytes is the length of CKA_ID that a token without a quirk is asked to keep.
const usualIDBytes = 16

// quirkOf returns the row of a token; the zero quirk for a token that behaves.
func quirkOf(library, manufacturer, model string) quirk {
	for _, q := range quirks {
		if strings.HasPrefix(manufacturer, q.manufacturer) && strings.HasPrefix(model, q.model) && strings.HasPrefix(library, q.library) {
			return q
		}
	}
	return quirk{}
}

// maxIDBytes returns the longest CKA_ID.
func (q quirk) maxIDBytes() int {
	if q.idBytes > 0 {
		return q.idBytes
	}
	return usualIDBytes
}

// errUseless says of a pair that the module could make that it could not use it.
var errUseless = errors.New("this module is known not to use the pairs of this kind that it makes")

// gap returns why pairs of a kind are not even tried, or nil.
func (q quirk) gap(spec pubkey.Spec) *GapError {
	if slices.Contains(q.useless, spec) {
		return &GapError{Spec: spec, What: "signing", Err: errUseless}
	}
	return nil
}

// keyType returns the CKA_KEY_TYPE of a key for h.
func (q quirk) keyType(h Hash) uint {
	if q.ownKeyType {
		return h.info().keyType
	}
	return pkcs11.CKK_GENERIC_SECRET
}

// generateMechanism returns the argument of C_GenerateKey.
func (q quirk) generateMechanism(h Hash) []*pkcs11.Mechanism {
	mechanism, ok := q.keyGen[h]
	if !ok {
		mechanism = pkcs11.CKM_GENERIC_SECRET_KEY_GEN
	}
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}
}
