package audit

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A handover is a seal by which the key of the seals gives its office to another one. Its text names all chains, and in its last line both
// keys:
//
//	handover 2 KEY NEXT PUBLIC
//
// with the number of the new key among the keys of this log, the ids of both as in Signature.Key, and the new one's public key
// (SubjectPublicKeyInfo) in base64, or "-" where it has none. Both keys sign it: the old one, so that who has its public key alone may
// trust the new one; the new one, so that nobody names a key that he does not have, and who has the new public key alone knows that all
// was there then.
//
// Seals by the old key count where they stand before what the handover names of their chain, and nowhere else: whoever has the use of the
// old key later can seal nothing. That holds for chains of others, too, which have no order beside the handover's own; a chain that it
// does not name has no such seals. A process that was just signing when the key was followed may leave one in its chain that does not
// count.
const (
	handoverStart = "handover "
	handoverName  = "HandOverAuditSeals"
)

// succession is what the last line of such a text says.
type succession struct {
	epoch    uint32
	from, to string
	public   []byte // nil: an HMAC key's
}

func (s *succession) append(b []byte) []byte {
	public := "-"
	if s.public != nil {
		public = base64.StdEncoding.EncodeToString(s.public)
	}
	return fmt.Appendf(b, "%s%d %s %s %s\n", handoverStart, s.epoch, s.from, s.to, public)
}

// parseSuccession reads one without its end.
func parseSuccession(line string) (*succession, error) {
	parts := strings.Split(strings.TrimPrefix(line, handoverStart), " ")
	if len(parts) != 4 {
		return nil, errors.New("it names no two keys")
	}
	epoch, err := strconv.ParseUint(parts[0], 10, 32)
	if err != nil {
		return nil, err
	}
	s := &succession{epoch: uint32(epoch), from: parts[1], to: parts[2]}
	if parts[3] == "-" {
		return s, nil
	}
	if s.public, err = base64.StdEncoding.DecodeString(parts[3]); err != nil {
		return nil, err
	}
	if _, err := SealKeyOf(s.public); err != nil || SealKeyID(s.public) != s.to {
		return nil, errors.New("its public key is not the one that it names")
	}
	return s, nil
}

// Handover is what a Sealer has told of a key that follows another one.
type Handover struct {
	Epoch    uint32 // the number of the new key among those of the log
	From, To HandoverKey
	// Check tells whether a signature of a text is the old key's.
	Check func(ctx context.Context, text []byte, s Signature) error
	// Done is called when it stands in the log.
	Done func(ctx context.Context) error
}

// HandoverKey is one of its two keys.
type HandoverKey struct {
	ID     string // Signature.Key
	Public []byte // SubjectPublicKeyInfo; nil of an HMAC key
	Sign   func(ctx context.Context, text []byte) (Signature, error)
}

// event is the event of the handover, which it has both keys sign.
func (h *Handover) event(ctx context.Context, said statement) (*Event, error) {
	said.next = &succession{h.Epoch, h.From.ID, h.To.ID, h.To.Public}
	text := said.text()
	by, err := h.From.Sign(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("signing by the key of before: %w", err)
	}
	co, err := h.To.Sign(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("signing by the new key: %w", err)
	}
	e := sealEvent(handoverName, text, by)
	e.Additional["nextSignature"], e.Additional["nextAlgorithm"] = base64.StdEncoding.EncodeToString(co.Value), co.Algorithm
	return e, nil
}

// HandOver has the log tell at once of a key that follows another one, where a Sealer has such; who seals by it does so by itself.
func (l *Log) HandOver(ctx context.Context, by Sealer) error { return l.newSealing(by).handOver(ctx) }

// handOver tells of a key that follows another one.
func (s *sealing) handOver(ctx context.Context) error {
	over, err := s.by.Handover(ctx)
	if over == nil || err != nil {
		return err
	}
	found, err := list(s.l.dir)
	if err != nil {
		return err
	}
	gone, err := s.expiredBefore(ctx, found, over.Check)
	if err != nil {
		return err
	}
	more := addition{over: over}
	for _, chain := range sortedKeys(gone) {
		more.gone = append(more.gone, gone[chain])
	}
	if err := s.stillInOffice(ctx, over.To.ID, over.Check); err != nil {
		return err
	}
	if err := s.seal(ctx, more); err != nil {
		return fmt.Errorf("handing the seals over to another key: %w", err)
	}
	return over.Done(ctx)
}

// errOfBefore says that what the key signs now, and what follows it, would be refused.
var errOfBefore = errors.New("the log tells that its key was followed by one that the store does not know: the store was restored from a " +
	"backup of before, or somebody else has the use of the key. Move the directory of the log away, keep it, and begin another log")

// stillInOffice refuses where the log tells that the key which check knows was followed by another one than to.
func (s *sealing) stillInOffice(ctx context.Context, to string, check func(context.Context, []byte, Signature) error) error {
	lines, err := Search(ctx, s.l.dir, Query{EventName: handoverName, Max: maxExpiries})
	if err != nil {
		return err
	}
	for _, line := range lines {
		seal := sealOf(line)
		if seal != nil && seal.err == nil && seal.next != nil && seal.next.to != to && check(ctx, seal.text, seal.by) == nil {
			return errOfBefore
		}
	}
	return nil
}
