package test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/softhsm"
)

// rawJob is what a raw PKCS#11 client does to a token, in this order.
type rawJob struct {
	Module, Serial, PIN string
	Make                []rawObject // made as another application would
	Attack              []string    // CKA_IDs, hexadecimal, of secret and private keys whose value it tries to get
}

// rawAnswer is what it found, after all of that.
type rawAnswer struct {
	Objects []rawObject // every object of the token
	Attacks map[string]rawAttack
}

// rawObject is an object as the token shows it; what the token does not tell is zero.
type rawObject struct {
	Class, KeyType      uint
	Label, ID           string // ID is hexadecimal
	Token, Private      bool
	Sensitive, Always   bool
	Extractable, Never  bool
	Sign, Verify, Local bool
	ValueLen            uint
	Mechanisms          []uint // CKA_ALLOWED_MECHANISMS
	Value               string // of data objects, hexadecimal
	Fingerprint         string // of secret keys that sign: tells two keys apart and nothing more
}

// rawAttack is what the token answered to attempts on one key: return values, pkcs11.CKR_OK when the attempt succeeded.
type rawAttack struct {
	ReadValue, Wrap uint
	// Extractable and Insensitive are the answers to changing the attributes that forbid the first two.
	Extractable, Insensitive uint
	// Sign is by mechanism.
	Sign      map[uint]uint
	ReadParts map[uint]uint // by attribute: the parts of an RSA private key
}

// find returns the object with this CKA_ID.
func (a rawAnswer) find(id string) (rawObject, bool) {
	for _, o := range a.Objects {
		if o.ID == id {
			return o, true
		}
	}
	return rawObject{}, false
}

// sealLabels are of the pair that seals the audit log, and of the key of the seals of records. Whichever process seals first makes them, so
// what tests count is without them.
var sealLabels = []string{"pkcs11kms/service/audit", "pkcs11kms/service/seal"}

// lastSealLabel begins the label of the object that has the last seal of the audit log, for which the same holds.
const lastSealLabel = "pkcs11kms/audit-seal/"

// raw runs a raw client on a token, in a process of its own.
func raw(t *testing.T, tok softhsm.TestToken, job rawJob) rawAnswer {
	t.Helper()
	job.Module, job.Serial, job.PIN = tok.Module, tok.Serial, tok.PIN()
	var answer rawAnswer
	ask(t, tok.Env(), "raw", job, &answer)
	answer.Objects = slices.DeleteFunc(answer.Objects, func(o rawObject) bool {
		return slices.Contains(sealLabels, o.Label) || o.Class == pkcs11.CKO_DATA && strings.HasPrefix(o.Label, lastSealLabel)
	})
	return answer
}

// rawClient is one session. It is for the use of one goroutine.
type rawClient struct {
	*pkcs11.Ctx
	session pkcs11.SessionHandle
}

func playRaw(line []byte, _ io.Reader, answer *json.Encoder) (err error) {
	var job rawJob
	if err := json.Unmarshal(line, &job); err != nil {
		return err
	}
	c, err := openRaw(job)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Finalize()) }()
	for _, o := range job.Make {
		if err := c.make(o); err != nil {
			return fmt.Errorf("making %q: %w", o.Label, err)
		}
	}
	found := rawAnswer{Attacks: map[string]rawAttack{}}
	for _, id := range job.Attack {
		if found.Attacks[id], err = c.attack(id); err != nil {
			return fmt.Errorf("trying the key %s: %w", id, err)
		}
	}
	handles, err := c.find(nil)
	if err != nil {
		return err
	}
	for _, h := range handles {
		found.Objects = append(found.Objects, c.describe(h))
	}
	return answer.Encode(found)
}

// openRaw logs in to the token with a serial. SoftHSM does not show a token while another process logs in to it, and looks
// again only when it is initialised anew.
func openRaw(job rawJob) (*rawClient, error) {
	c := &rawClient{Ctx: pkcs11.New(job.Module)}
	if c.Ctx == nil {
		return nil, fmt.Errorf("loading %q failed", job.Module)
	}
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for range 1000 {
		if err := c.Initialize(); err != nil {
			return nil, err
		}
		if slot, found := c.slotOf(job.Serial); found {
			session, err := c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
			if err != nil {
				return nil, err
			}
			c.session = session
			return c, c.Login(session, pkcs11.CKU_USER, job.PIN)
		}
		if err := c.Finalize(); err != nil {
			return nil, err
		}
		<-again.C
	}
	return nil, fmt.Errorf("finding the token with the serial %s: none", job.Serial)
}

func (c *rawClient) slotOf(serial string) (uint, bool) {
	slots, err := c.GetSlotList(true)
	if err != nil {
		return 0, false
	}
	for _, slot := range slots {
		if info, err := c.GetTokenInfo(slot); err == nil && info.SerialNumber == serial {
			return slot, true
		}
	}
	return 0, false
}

func (c *rawClient) find(template []*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := c.FindObjectsInit(c.session, template); err != nil {
		return nil, err
	}
	handles, _, err := c.FindObjects(c.session, 10000)
	return handles, errors.Join(err, c.FindObjectsFinal(c.session))
}

// make makes a data object, an EC key pair, or a secret key of 32 bytes.
func (c *rawClient) make(o rawObject) error {
	id, err := hex.DecodeString(o.ID)
	if err != nil {
		return err
	}
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, o.Label),
	}
	if len(id) > 0 {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	}
	switch o.Class {
	default:
		err = errors.New("not one of the classes that it makes")
	case pkcs11.CKO_DATA:
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_CLASS, o.Class),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE, "data of another application"))
		_, err = c.CreateObject(c.session, template)
	case pkcs11.CKO_PRIVATE_KEY:
		p256 := []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07} // DER of the curve's OID
		public := append([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, p256)}, template...)
		private := append([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_SIGN, true)}, template...)
		_, _, err = c.GenerateKeyPair(c.session, mechanism(pkcs11.CKM_EC_KEY_PAIR_GEN), public, private)
	case pkcs11.CKO_SECRET_KEY:
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
			pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, o.Extractable))
		_, err = c.GenerateKey(c.session, mechanism(pkcs11.CKM_GENERIC_SECRET_KEY_GEN), template)
	}
	return err
}

func mechanism(m uint) []*pkcs11.Mechanism { return []*pkcs11.Mechanism{pkcs11.NewMechanism(m, nil)} }

// hmacMechanisms are those of the four specs.
var hmacMechanisms = []uint{pkcs11.CKM_SHA224_HMAC, pkcs11.CKM_SHA256_HMAC, pkcs11.CKM_SHA384_HMAC, pkcs11.CKM_SHA512_HMAC}

// privateParts are the secret parts of an RSA private key.
var privateParts = []uint{pkcs11.CKA_PRIVATE_EXPONENT, pkcs11.CKA_PRIME_1, pkcs11.CKA_PRIME_2, pkcs11.CKA_EXPONENT_1, pkcs11.CKA_EXPONENT_2,
	pkcs11.CKA_COEFFICIENT}

func (c *rawClient) attack(id string) (rawAttack, error) {
	ckaID, err := hex.DecodeString(id)
	if err != nil {
		return rawAttack{}, err
	}
	named := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, ckaID)}
	handles, err := c.find(named)
	if len(handles) == 2 { // the halves of a pair
		handles, err = c.find(append(named, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)))
	}
	if err == nil && len(handles) != 1 {
		err = fmt.Errorf("%d objects have the CKA_ID", len(handles))
	}
	if err != nil {
		return rawAttack{}, err
	}
	key := handles[0]
	wrapping, err := c.GenerateKey(c.session, mechanism(pkcs11.CKM_AES_KEY_GEN), []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
	})
	if err != nil {
		return rawAttack{}, err
	}
	a := rawAttack{Sign: map[uint]uint{}, ReadParts: map[uint]uint{}}
	a.Extractable = answerOf(c.SetAttributeValue(c.session, key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true)}))
	a.Insensitive = answerOf(c.SetAttributeValue(c.session, key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false)}))
	_, err = c.GetAttributeValue(c.session, key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	a.ReadValue = answerOf(err)
	for _, part := range privateParts {
		_, err = c.GetAttributeValue(c.session, key, []*pkcs11.Attribute{pkcs11.NewAttribute(part, nil)})
		a.ReadParts[part] = answerOf(err)
	}
	_, err = c.WrapKey(c.session, mechanism(pkcs11.CKM_AES_KEY_WRAP_PAD), wrapping, key)
	a.Wrap = answerOf(err)
	for _, m := range hmacMechanisms {
		_, err := c.sign(key, m)
		a.Sign[m] = answerOf(err)
	}
	return a, nil
}

// answerOf returns the return value in an error of the module.
func answerOf(err error) uint {
	if err == nil {
		return pkcs11.CKR_OK
	}
	if rv, ok := errors.AsType[pkcs11.Error](err); ok {
		return uint(rv)
	}
	return pkcs11.CKR_VENDOR_DEFINED // no answer of the module at all
}

func (c *rawClient) sign(key pkcs11.ObjectHandle, m uint) ([]byte, error) {
	if err := c.SignInit(c.session, mechanism(m), key); err != nil {
		return nil, err
	}
	return c.Sign(c.session, []byte("message"))
}

func (c *rawClient) describe(h pkcs11.ObjectHandle) rawObject {
	o := rawObject{
		Class: c.number(h, pkcs11.CKA_CLASS), KeyType: c.number(h, pkcs11.CKA_KEY_TYPE), ValueLen: c.number(h, pkcs11.CKA_VALUE_LEN),
		Label: string(c.bytes(h, pkcs11.CKA_LABEL)), ID: hex.EncodeToString(c.bytes(h, pkcs11.CKA_ID)),
		Token: c.flag(h, pkcs11.CKA_TOKEN), Private: c.flag(h, pkcs11.CKA_PRIVATE), Local: c.flag(h, pkcs11.CKA_LOCAL),
		Sensitive: c.flag(h, pkcs11.CKA_SENSITIVE), Always: c.flag(h, pkcs11.CKA_ALWAYS_SENSITIVE),
		Extractable: c.flag(h, pkcs11.CKA_EXTRACTABLE), Never: c.flag(h, pkcs11.CKA_NEVER_EXTRACTABLE),
		Sign: c.flag(h, pkcs11.CKA_SIGN), Verify: c.flag(h, pkcs11.CKA_VERIFY),
	}
	list := c.bytes(h, pkcs11.CKA_ALLOWED_MECHANISMS)
	for size := strconv.IntSize / 8; len(list) >= size; list = list[size:] {
		o.Mechanisms = append(o.Mechanisms, number(list[:size]))
	}
	if o.Class == pkcs11.CKO_DATA {
		o.Value = hex.EncodeToString(c.bytes(h, pkcs11.CKA_VALUE))
	}
	if o.Class == pkcs11.CKO_SECRET_KEY && o.Sign {
		o.Fingerprint = c.fingerprint(h)
	}
	return o
}

// fingerprint is a hash of a MAC, so that neither key nor MAC stands in the output of a failed test.
func (c *rawClient) fingerprint(h pkcs11.ObjectHandle) string {
	for _, m := range hmacMechanisms {
		if tag, err := c.sign(h, m); err == nil {
			sum := sha256.Sum256(tag)
			return hex.EncodeToString(sum[:8])
		}
	}
	return ""
}

func (c *rawClient) bytes(h pkcs11.ObjectHandle, attribute uint) []byte {
	got, err := c.GetAttributeValue(c.session, h, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
	if err != nil {
		return nil
	}
	return got[0].Value
}

func (c *rawClient) number(h pkcs11.ObjectHandle, attribute uint) uint {
	return number(c.bytes(h, attribute))
}

func (c *rawClient) flag(h pkcs11.ObjectHandle, attribute uint) bool {
	value := c.bytes(h, attribute)
	return len(value) == 1 && value[0] == 1
}

// number decodes a CK_ULONG; 0 when it is none.
func number(value []byte) uint {
	switch len(value) {
	case 4:
		return uint(binary.NativeEndian.Uint32(value))
	case 8:
		return uint(binary.NativeEndian.Uint64(value))
	}
	return 0
}
