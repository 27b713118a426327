package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"strings"
	"time"
)

// A checkpoint is a record of what the store was at one commit: how many records it had that the log is told of, and a hash over all of
// them. By two of them, and what the log says was written in between, shows a change that no record tells of, also of records that the log
// has never named, or does not any more. It is signed by itself: a seal over it would not do, since whoever can write to the directory can
// make up a record in a chain that nobody writes to, and have it sealed.

// Sum is a number modulo 2^256, the most significant byte first.
type Sum [32]byte

// Plus is the sum.
func (s Sum) Plus(other Sum) Sum { return s.by(other, bits.Add64) }

// Minus is the difference.
func (s Sum) Minus(other Sum) Sum { return s.by(other, bits.Sub64) }

func (s Sum) by(other Sum, op func(x, y, carry uint64) (uint64, uint64)) (out Sum) {
	carry := uint64(0)
	for i := len(s) - 8; i >= 0; i -= 8 {
		var word uint64
		word, carry = op(binary.BigEndian.Uint64(s[i:]), binary.BigEndian.Uint64(other[i:]), carry)
		binary.BigEndian.PutUint64(out[i:], word)
	}
	return out
}

// Multiset makes the hashes of checkpoints: that of a nonce and those of all records are added up.
type Multiset interface {
	Nonce(nonce []byte) Sum
	Element(name string, r Stored) Sum
}

// StoreMoment is of which store, and when, records are.
type StoreMoment struct {
	Store  string // its id, in hexadecimal
	Epoch  uint32 // of its seals
	Commit uint64 // the number of the last one
	Hash   Multiset
}

// Checkpoint tells what the records of a store were at one moment.
type Checkpoint struct {
	Time    time.Time
	Store   string
	Epoch   uint32
	Commit  uint64
	Records uint64
	Nonce   []byte
	Hash    Sum
}

const (
	checkpointTitle = "pkcs11kms audit checkpoint 1"
	checkpointName  = "CheckpointStore"
)

// text is what is signed: lines with a line end.
func (c *Checkpoint) text() string {
	return fmt.Sprintf("%s\n%s\n%s %d %d\n%d %x %x\n", checkpointTitle, c.Time.UTC().Format(time.RFC3339), c.Store, c.Epoch, c.Commit,
		c.Records, c.Nonce, c.Hash)
}

// parseCheckpoint reads a text in the one form that it has.
func parseCheckpoint(text string) (*Checkpoint, error) {
	var title, at string
	c := &Checkpoint{}
	var nonce, hash string
	lines := strings.SplitN(text, "\n", 3)
	if len(lines) < 3 {
		return nil, fmt.Errorf("it has %d lines", len(lines))
	}
	title, at = lines[0], lines[1]
	if _, err := fmt.Sscanf(lines[2], "%s %d %d\n%d %s %s\n", &c.Store, &c.Epoch, &c.Commit, &c.Records, &nonce, &hash); err != nil {
		return nil, err
	}
	var err error
	if c.Time, err = time.Parse(time.RFC3339, at); err != nil {
		return nil, err
	}
	if c.Nonce, err = hex.DecodeString(nonce); err != nil {
		return nil, err
	}
	if sum, err := hex.DecodeString(hash); err != nil || copy(c.Hash[:], sum) != len(c.Hash) {
		return nil, fmt.Errorf("%q is no hash", hash)
	}
	if title != checkpointTitle || c.text() != text {
		return nil, fmt.Errorf("it is no text of a checkpoint")
	}
	return c, nil
}

// mayBeCheckpoint tells by its bytes that a line may be a checkpoint.
func mayBeCheckpoint(line []byte) bool {
	return bytes.Contains(line, []byte(`"eventName":"`+checkpointName+`"`))
}

// checkpointOf reads the checkpoint that a line is, if check finds its signature valid; nil: it is none.
func checkpointOf(line []byte, check func([]byte, Signature) error) *Checkpoint {
	var record struct {
		EventType, EventSource string
		AdditionalEventData    struct{ Text, Signature, Algorithm, Key string }
	}
	if json.Unmarshal(line, &record) != nil || record.EventType != ServiceEvent.String() || record.EventSource != ownService {
		return nil
	}
	data := record.AdditionalEventData
	value, err := base64.StdEncoding.DecodeString(data.Signature)
	if err != nil || check == nil || check([]byte(data.Text), Signature{Algorithm: data.Algorithm, Key: data.Key, Value: value}) != nil {
		return nil
	}
	c, err := parseCheckpoint(data.Text)
	if err != nil {
		return nil
	}
	return c
}

// checkpointLimit bounds the making of one: sealing waits for it. checkpointPauses is how much longer than that took nothing is done for
// the next one, where files are closed faster.
const (
	checkpointLimit  = 3 * time.Minute
	checkpointPauses = 20
)

// checkpoint writes a checkpoint, if the store has any. That it cannot be made keeps nothing else from being done.
func (s *sealing) checkpoint(ctx context.Context, limit time.Duration) {
	began := time.Now()
	if began.Before(s.noCheckpoint) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer func() { s.noCheckpoint = time.Now().Add(checkpointPauses * time.Since(began)) }()
	c, err := s.by.Checkpoint(ctx)
	if err == nil && c != nil {
		err = s.writeCheckpoint(ctx, c)
	}
	if err != nil {
		s.l.o.Logger.Warn("there is no checkpoint of the store in the audit log this time", "error", err, "after", time.Since(began))
	}
}

func (s *sealing) writeCheckpoint(ctx context.Context, c *Checkpoint) error {
	c.Time = s.l.o.Now()
	text := []byte(c.text())
	signature, err := s.by.Sign(ctx, text)
	if err != nil {
		return err
	}
	return s.l.take(signedEvent(ServiceEvent, checkpointName, text, signature))
}

// untilHalf is half of the time that a context has.
func untilHalf(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return min(checkpointLimit, time.Until(end)/2)
	}
	return checkpointLimit
}
