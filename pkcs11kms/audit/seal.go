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
//	where the key of the seals is followed by another one: see succession
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
	// Handover returns what is to be told before Sign signs by a key that has followed another one; nil: nothing.
	Handover(ctx context.Context) (*Handover, error)
	// KeepOutside keeps where whoever puts log and store back cannot that a record was sealed, which Keep was told before; not each time,
	// but at the end if possible.
	KeepOutside(ctx context.Context, sealed Head, end bool) error
	// Checkpoint counts and hashes the records of the store. Nil: it has none that the log is told of.
	Checkpoint(ctx context.Context) (*Checkpoint, error)
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

// statement is what the text of a seal says.
type statement struct {
	heads []Head
	gone  []Head      // what has expired
	next  *succession // nil: the key of the seals stays
	time  time.Time
}

// text is the one form that it is written in.
func (s statement) text() []byte {
	b := []byte(sealTitle + "\n" + s.time.UTC().Format(time.RFC3339) + "\n")
	for _, h := range s.heads {
		b = h.append(b)
	}
	for _, h := range s.gone {
		b = h.append(append(b, expiredStart...))
	}
	if s.next != nil {
		b = s.next.append(b)
	}
	return b
}

// parseStatement reads a text in that form.
func parseStatement(text string) (s statement, err error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) < 3 || lines[0] != sealTitle {
		return s, errors.New("it is no text of a seal")
	}
	if s.time, err = time.Parse(time.RFC3339, lines[1]); err != nil {
		return s, err
	}
	for _, line := range lines[2:] {
		if err := s.parseLine(line); err != nil {
			return s, err
		}
	}
	if text != string(s.text()) {
		return s, errors.New("it is not written as seals are")
	}
	return s, nil
}

func (s *statement) parseLine(line string) (err error) {
	if strings.HasPrefix(line, handoverStart) {
		s.next, err = parseSuccession(line)
		return err
	}
	line, expired := strings.CutPrefix(line, expiredStart)
	h, err := parseHead(line)
	if expired {
		s.gone = append(s.gone, h)
	} else {
		s.heads = append(s.heads, h)
	}
	return err
}

// sealEvent is what the record of a seal is made of.
func sealEvent(name string, text []byte, s Signature) *Event {
	return signedEvent(Seal, name, text, s)
}

func signedEvent(kind Kind, name string, text []byte, s Signature) *Event {
	return &Event{Kind: kind, Service: ownService, Operation: name, ReadOnly: true, Additional: map[string]any{
		"text": string(text), "signature": base64.StdEncoding.EncodeToString(s.Value), "algorithm": s.Algorithm, "key": s.Key}}
}

// seal is one that was read.
type seal struct {
	statement
	text []byte
	by   Signature
	co   Signature // where next follows: by that key
	at   link      // its place in its chain
	file string    // and in the files
	line int
	err  error  // why it is none
	idle string // why it does not count although nothing is wrong with it; empty: it counts

	accepted bool // see verifier.takeUp
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
		AdditionalEventData    struct{ Text, Signature, Algorithm, Key, NextSignature, NextAlgorithm string }
	}
	if json.Unmarshal(line, &record) != nil || record.EventType != Seal.String() || record.EventSource != ownService {
		return nil
	}
	data := record.AdditionalEventData
	s := &seal{text: []byte(data.Text), by: Signature{Algorithm: data.Algorithm, Key: data.Key}}
	if s.statement, s.err = parseStatement(data.Text); s.err != nil {
		return s
	}
	if s.by.Value, s.err = base64.StdEncoding.DecodeString(data.Signature); s.err != nil || s.next == nil {
		return s
	}
	s.co = Signature{Algorithm: data.NextAlgorithm, Key: s.next.to}
	s.co.Value, s.err = base64.StdEncoding.DecodeString(data.NextSignature)
	return s
}
