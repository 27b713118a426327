package pkcs11kms

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/google/uuid"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/guard"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/lastuse"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// maxPiece is how much goes to the token between two looks at the permission.
const maxPiece = 1 << 20

// MACStream makes the HMAC of data of any length. The data goes to the token as it is written; Sum returns the tag,
// the same as GenerateMac would for the same bytes. One goroutine may use it at a time; Close may come from another.
type MACStream struct {
	client  *Client
	ctx     context.Context // of NewMAC: the stream ends with it
	req     request
	arn     string
	key     lastuse.Key
	stream  *token.Stream
	checked time.Time

	event audit.Event // of the call that began it
	bytes atomic.Int64
	told  sync.Once // the audit log has heard of the end
}

// NewMAC begins a MAC over data that is longer than GenerateMac takes. keyID is what GenerateMac accepts, and the
// caller needs the same permission. The stream holds one session of the token until Sum, Close or the end of ctx; at
// most a quarter of the sessions serve streams. The key is checked again while data is written, so that a stream ends
// when its key is disabled. Tokens whose module is known to crash or fail in multi-part operations answer
// UnsupportedOperationException.
func (c *Client) NewMAC(ctx context.Context, keyID string, algorithm types.MacAlgorithmSpec) (*MACStream, error) {
	in := &kms.GenerateMacInput{KeyId: &keyID, MacAlgorithm: algorithm, Message: []byte{0}} // one that there is
	var stream *token.Stream
	s, err := perform(ctx, c, ops.GenerateMac, in, nil, func(_ *Client, in *kms.GenerateMacInput) (request, error) {
		return request{keyID: in.KeyId, algorithm: in.MacAlgorithm}, nil
	}, func(ctx context.Context, c *call, _ *kms.GenerateMacInput, k *key) (*MACStream, error) {
		var err error
		c.requestID = audit.NewID() // of both records
		stream, err = k.hmac().Stream(ctx)
		if errors.Is(err, token.ErrStreamRefused) {
			return nil, apierr.WithCause(apierr.Unsupported("The token cannot make a MAC over more than 4096 bytes."), err)
		}
		return &MACStream{client: c.Client, ctx: ctx, req: c.req, arn: k.ARN, key: k.name(), stream: stream, checked: c.Now(),
			event: c.Event(subject{key: k})}, err
	})
	if err != nil {
		if stream != nil {
			_ = stream.Close() // of a call that was refused after all
		}
		return nil, err
	}
	s.req.keyID = aws.String(s.arn) // beside the alias that led to it, if one did, see settle
	return s, nil
}

// Write adds data. An error is final, and ends the stream.
func (s *MACStream) Write(p []byte) (written int, err error) {
	defer func() {
		s.bytes.Add(int64(written))
		if err != nil {
			_ = s.tell(err) // the error counts
		}
	}()
	for {
		if err := s.recheck(guard.RecheckInterval); err != nil {
			return written, err
		}
		n, err := s.stream.Write(p[written:min(len(p), written+maxPiece)])
		written += n
		if err != nil || written == len(p) {
			return written, s.client.answer(s.ctx, ops.GenerateMac.Name, s.arn, err)
		}
	}
}

// Sum returns the tag and ends the stream.
func (s *MACStream) Sum() ([]byte, error) {
	err := s.recheck(0)
	var tag []byte
	if err == nil {
		tag, err = s.stream.Sum()
		err = s.client.answer(s.ctx, ops.GenerateMac.Name, s.arn, err)
	}
	if failure := s.tell(err); failure != nil && err == nil {
		err = s.client.answer(s.ctx, ops.GenerateMac.Name, s.arn, failure)
	}
	if err != nil {
		return nil, err
	}
	s.client.bridge.noteUse(s.key, ops.GenerateMac, &s.event)
	return tag, nil
}

// Close ends the stream and gives its session back. After Sum it does nothing.
func (s *MACStream) Close() error {
	err := s.stream.Close()
	if failure := s.tell(errAbandoned); err == nil {
		err = failure
	}
	return err
}

// errAbandoned is what the audit log hears of a stream that was closed before its Sum.
var errAbandoned = &smithy.CanceledError{Err: errors.New("the stream was closed before its end")}

// tell tells the audit log of the stream's end, once.
func (s *MACStream) tell(err error) (failure error) {
	s.told.Do(func() {
		e := s.event
		e.Kind, e.Err, e.EventID = audit.StreamEnd, err, uuid.Nil
		e.Additional = map[string]any{"bytes": s.bytes.Load()}
		failure = s.client.bridge.cfg.Audit.Record(s.ctx, e)
	})
	return failure
}

// recheck asks for the permission again when the last answer is older than age.
func (s *MACStream) recheck(age time.Duration) error {
	now := s.client.bridge.cfg.Now()
	if since := now.Sub(s.checked); since >= 0 && since < age {
		return nil
	}
	asked := &call{Client: s.client, op: ops.GenerateMac, req: s.req}
	err := asked.Check()
	if err == nil {
		err = guard.MayStill(s.ctx, asked.op, asked)
	}
	if err = s.client.answer(s.ctx, asked.op.Name, s.arn, err); err != nil {
		_ = s.stream.Close() // the refusal is what counts
		return err
	}
	s.checked = now
	return nil
}
