package sealed

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/pkcs11kms/bridge/keystore"
)

// A seal is one byte for its form, the epoch (4 bytes) and the revision (8), the most significant byte first, and the MAC.
const (
	form       = 1
	revisionAt = 1 + 4
	macAt      = revisionAt + 8
	sealLen    = macAt + sha256.Size
)

// Key makes seals. It is secret.
type Key [sha256.Size]byte

// KeyText is what a service key makes the Key of the store's seals by: 32 bytes of it, see keyring.
func KeyText(s keystore.Seals) []byte {
	text := append([]byte("pkcs11kms: the key of the seals of records\x00"), s.Store...)
	return binary.BigEndian.AppendUint32(text, s.Epoch)
}

// errRecord is what the reasons have in common why a record is refused.
var errRecord = errors.New("is not what was written there")

// Why a record is refused.
var (
	errUnsealed = reason("has no seal")
	errSealed   = reason("has a seal, and the store tells of none")
	errForm     = reason("has a seal of an unknown form")
	errEpoch    = reason("has a seal of another epoch")
	errMAC      = reason("has a seal that does not belong to it: somebody has edited, moved or copied it")
	errOlder    = reason("was put back to what it was before")
	errEntry    = reason("was found by an index entry that it does not have")
)

type reasonError string

func reason(text string) error { return reasonError(text) }

func (r reasonError) Error() string        { return string(r) }
func (r reasonError) Is(target error) bool { return target == errRecord || target == error(r) }

// seals makes and checks the seals of one epoch of one store. It is never changed.
type seals struct {
	of  keystore.Seals
	key Key
}

// make makes the seal of a value.
func (s *seals) make(ref keystore.Ref, value []byte, revision uint64) []byte {
	seal := make([]byte, 0, sealLen)
	seal = binary.BigEndian.AppendUint32(append(seal, form), s.of.Epoch)
	seal = binary.BigEndian.AppendUint64(seal, revision)
	return s.mac(seal, ref, value)
}

// mac appends the MAC to the beginning of a seal. Each part is preceded by its length, so that nothing can pass from one to the next.
func (s *seals) mac(seal []byte, ref keystore.Ref, value []byte) []byte {
	h := hmac.New(sha256.New, s.key[:])
	var length [4]byte
	part := func(b []byte) {
		binary.BigEndian.PutUint32(length[:], uint32(len(b)))
		h.Write(length[:])
		h.Write(b)
	}
	part(s.of.Store)
	part(seal[:macAt])
	for _, text := range []string{string(ref.Kind), ref.Region, ref.Account, ref.ID} {
		part([]byte(text))
	}
	part(value)
	return h.Sum(seal)
}

// check returns the revision of a record whose seal is right.
func (s *seals) check(rec keystore.Record) (revision uint64, err error) {
	switch {
	case len(rec.Seal) == 0:
		return 0, errUnsealed
	case len(rec.Seal) != sealLen || rec.Seal[0] != form:
		return 0, errForm
	}
	if binary.BigEndian.Uint32(rec.Seal[1:]) != s.of.Epoch {
		return 0, errEpoch
	}
	if !hmac.Equal(s.mac(append([]byte(nil), rec.Seal[:macAt]...), rec.Ref, rec.Value), rec.Seal) {
		return 0, errMAC
	}
	return binary.BigEndian.Uint64(rec.Seal[revisionAt:]), nil
}
