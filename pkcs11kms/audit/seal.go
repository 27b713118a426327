package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// A seal is a record of its own event type that holds a signed text: how far chains went at some time. Whoever has no use of the key cannot
// make another one for a chain that was written anew. The text is one line each, with a line end, of:
//
//	pkcs11kms audit seal 1
//	the time, RFC 3339, UTC
//	of each chain that it seals: the chain's id, the number of a record, the SHA-256 of that record's line in hexadecimal
//	of each chain that has lost its beginning, since that has expired: "expired " and the same of the last record that has gone
//
// A seal names the chain that it stands in, if that had records, and those others that have changed since they were last sealed.

// Sealer is what a Log seals with.
type Sealer interface {
	// Sign signs a text by a key that whoever can write to the log's directory does not have.
	Sign(ctx context.Context, text []byte) (Signature, error)
	// Check tells whether a signature of a text is valid, which Sign may have made in another process.
	Check(ctx context.Context, text []byte, s Signature) error
	// Keep keeps somewhere else that chains are sealed up to these records: see Known.Sealed.
	Keep(ctx context.Context, sealed []Head) error
}

// Signature is that of a seal's text.
type Signature struct {
	Algorithm string // ECDSA_SHA_256, RSASSA_PKCS1_V1_5_SHA_256 or HMAC_SHA_256, as AWS KMS names them
	Key       string // which key made it: of a pair the SHA-256 of its public key (SubjectPublicKeyInfo), in hexadecimal
	Value     []byte // of ECDSA as DER
}

const (
	sealTitle = "pkcs11kms audit seal 1"
	sealName  = "SealAuditLog"

	expiredStart = "expired "
	expiryName   = "ExpireAuditFiles" // in place of sealName, where the seal tells that files have expired
)

// sealText is the text over heads, and what has gone, at a time.
func sealText(heads, gone []Head, at time.Time) []byte {
	b := []byte(sealTitle + "\n" + at.UTC().Format(time.RFC3339) + "\n")
	for _, h := range heads {
		b = h.append(b)
	}
	for _, h := range gone {
		b = h.append(append(b, expiredStart...))
	}
	return b
}

// parseSealText reads a text in the one form that sealText gives it.
func parseSealText(text string) (heads, gone []Head, at time.Time, err error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) < 3 || lines[0] != sealTitle {
		return nil, nil, at, errors.New("it is no text of a seal")
	}
	if at, err = time.Parse(time.RFC3339, lines[1]); err != nil {
		return nil, nil, at, err
	}
	for _, line := range lines[2:] {
		line, expired := strings.CutPrefix(line, expiredStart)
		h, err := parseHead(line)
		if err != nil {
			return nil, nil, at, err
		}
		if expired {
			gone = append(gone, h)
		} else {
			heads = append(heads, h)
		}
	}
	if text != string(sealText(heads, gone, at)) {
		return nil, nil, at, errors.New("it is not written as seals are")
	}
	return heads, gone, at, nil
}

// sealEvent is what the record of a seal is made of.
func sealEvent(name string, text []byte, s Signature) *Event {
	return &Event{Kind: Seal, Service: ownService, Operation: name, ReadOnly: true, Additional: map[string]any{
		"text": string(text), "signature": base64.StdEncoding.EncodeToString(s.Value), "algorithm": s.Algorithm, "key": s.Key}}
}

// seal is one that was read.
type seal struct {
	heads []Head
	gone  []Head // what has expired
	time  time.Time
	text  []byte
	by    Signature
	file  string // its place
	line  int
	err   error // why it is none
}

// mayBeSeal tells by its bytes that a line may be a seal.
func mayBeSeal(line []byte) bool {
	return bytes.Contains(line, []byte(`"eventType":"`+kinds[Seal]+`"`))
}

// sealOf reads the seal that a line is; nil: it is none. What is not as it should be is told in the seal.
func sealOf(line []byte) *seal {
	if !mayBeSeal(line) {
		return nil
	}
	var record struct {
		EventType, EventSource string
		AdditionalEventData    struct{ Text, Signature, Algorithm, Key string }
	}
	if json.Unmarshal(line, &record) != nil || record.EventType != Seal.String() || record.EventSource != ownService {
		return nil
	}
	data := record.AdditionalEventData
	s := &seal{text: []byte(data.Text), by: Signature{Algorithm: data.Algorithm, Key: data.Key}}
	if s.heads, s.gone, s.time, s.err = parseSealText(data.Text); s.err != nil {
		return s
	}
	s.by.Value, s.err = base64.StdEncoding.DecodeString(data.Signature)
	return s
}
