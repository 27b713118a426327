package token

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/miekg/pkcs11"
)

// streamPart is the most that one C_SignUpdate gets, so that a long Write is many short calls, each with its own deadline.
const streamPart = 64 << 10

// errSummed says that a stream is written to after its end.
var errSummed = fmt.Errorf("writing to the stream after Sum: %w", ErrClosed)

// Stream computes the MAC of data of any length on a session of its own. It ends with its context, and gives the session
// back when it is summed, closed, or dropped. It is safe for concurrent use, though the order of concurrent writes is open.
type Stream struct {
	*streamState // apart, so that what watches the context and the token's end does not keep a dropped Stream alive
}

type streamState struct {
	token *Token
	ctx   context.Context
	key   *Key
	used  *keyHandle // of the key

	mu      sync.Mutex // guards the rest, and is held during C calls
	session *session   // nil once it was given back
	err     error      // why the stream ended without a tag
	tag     []byte     // the result, once summed
	stops   []func() bool
	cleanup runtime.Cleanup
}

// NewStream begins a MAC in several parts. At most a quarter of the pool's sessions can be in streams; beyond that it waits
// like any call for a session, then returns ErrBusy. On a module that is known to crash it returns ErrStreamRefused.
func (t *Token) NewStream(ctx context.Context, k *Key) (*Stream, error) {
	if err := t.owns(k); err != nil {
		return nil, err
	}
	if t.closing.Err() != nil {
		return nil, ErrClosed
	}
	if !t.facts().complete { // it was never reached, so nobody knows yet what it can do
		if err := t.lostCause(); err != nil {
			return nil, err
		}
	}
	if t.facts().quirk.noStream {
		return nil, ErrStreamRefused
	}
	if err := t.streams.takeWithin(ctx, t.timeout); err != nil {
		return nil, err
	}
	st := &streamState{token: t, ctx: ctx, key: k}
	if err := st.begin(); err != nil {
		t.streams.release()
		return nil, err
	}
	stream := &Stream{st}
	st.mu.Lock()
	defer st.mu.Unlock()
	// On a goroutine of its own, since closing a session may hang, and all cleanups of the process run on a few.
	st.cleanup = runtime.AddCleanup(stream, func(st *streamState) { go st.end(ErrClosed) }, st)
	connected := t.connection.Load()
	st.stops = []func() bool{
		context.AfterFunc(connected, func() { st.end(t.lostCause()) }),
		context.AfterFunc(ctx, func() { st.end(ctx.Err()) }),
		context.AfterFunc(t.closing, func() { st.end(ErrClosed) }),
	}
	return stream, nil
}

// begin borrows a session until the stream's end. Like a MAC it is repeated once if the session was broken.
func (st *streamState) begin() error {
	var used *keyHandle
	o := &operation{name: "C_SignInit", often: true, run: func(s *session, _ []byte) (err error) {
		used, err = s.signInit(st.key)
		return err
	}}
	o.keep = func(s *session) { st.session, st.used = s, used }
	err := st.token.do(st.ctx, o)
	for try := 1; errors.Is(err, errReused) && try < confirmTries; try++ {
		err = st.token.do(st.ctx, o)
	}
	return err
}

// Write adds data. After an error the stream is of no use any more.
func (st *Stream) Write(data []byte) (int, error) {
	defer runtime.KeepAlive(st)
	return st.write(data)
}

// Sum ends the stream and returns the MAC. Called again, it returns the same.
func (st *Stream) Sum() ([]byte, error) {
	defer runtime.KeepAlive(st)
	return st.sum()
}

// Close gives up a stream that was not summed; after Sum, or called again, it does nothing.
func (st *Stream) Close() error {
	defer runtime.KeepAlive(st)
	st.end(ErrClosed)
	return nil
}

func (st *streamState) write(data []byte) (int, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	written := 0
	for len(data) > 0 {
		if err := st.usable(); err != nil {
			return written, err
		}
		part := data[:min(len(data), streamPart)]
		err := st.call("C_SignUpdate", part, func(s *session, part []byte) error {
			err := wrapRV("C_SignUpdate", s.token.c.SignUpdate(s.handle, part))
			if isRV(err, pkcs11.CKR_DATA_LEN_RANGE) {
				err = fmt.Errorf("%w: %w", ErrMessageTooLong, err)
			}
			return err
		})
		if err != nil {
			return written, err
		}
		written += len(part)
		data = data[len(part):]
	}
	return written, st.usable()
}

func (st *streamState) sum() ([]byte, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.tag != nil {
		return append([]byte(nil), st.tag...), nil
	}
	if err := st.usable(); err != nil {
		return nil, err
	}
	var tag []byte
	err := st.call("C_SignFinal", nil, func(s *session, _ []byte) error {
		return s.used(&st.key.named, st.used, func() error {
			sum, err := s.token.c.SignFinal(s.handle)
			if err != nil {
				return wrapRV("C_SignFinal", err)
			}
			tag = sum
			return checkTag(st.key.hash, sum)
		})
	})
	if err != nil {
		return nil, err
	}
	st.tag = tag
	st.giveBack(nil)
	return append([]byte(nil), tag...), nil
}

// usable returns why the stream cannot go on. The caller holds mu.
func (st *streamState) usable() error {
	switch {
	case st.err != nil:
		return st.err
	case st.tag != nil:
		return errSummed
	}
	return st.ctx.Err()
}

// call runs one step on the stream's session; any error ends the stream. The caller holds mu.
func (st *streamState) call(name string, input []byte, run func(*session, []byte) error) error {
	if err := st.token.lostCause(); err != nil {
		st.err = err
		st.giveBack(err)
		return err
	}
	err := st.session.call(st.ctx, &operation{name: name, input: input, run: run, goesOn: true}, st.token.timeout)
	if err == nil {
		return nil
	}
	if looksLost(err) {
		if gone := st.token.examine(st.ctx, err, st.token.timeout); gone != nil {
			err = gone
		}
	}
	st.err = err
	st.giveBack(err)
	return err
}

// end gives up the stream, unless it has ended already.
func (st *streamState) end(cause error) {
	if cause == nil {
		cause = fmt.Errorf("%w: the connection was lost meanwhile", ErrGone)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.session == nil {
		return
	}
	st.err = cause
	st.giveBack(cause)
}

// giveBack returns the session, or throws it away with the operation that is active on it if err is not nil. The caller
// holds mu.
func (st *streamState) giveBack(err error) {
	s := st.session
	st.session = nil
	for _, stop := range st.stops {
		stop()
	}
	st.cleanup.Stop()
	var hung *HungError
	switch {
	case errors.As(err, &hung): // its goroutine gives the place back
	case err == nil && st.token.pool.give(s, true):
	default:
		s.end(true)
	}
	st.token.streams.release()
}
