package server

import (
	"bytes"
	"io"
	"net/http"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/fairshare"
)

// firstBody is how much of a body is read without taking part in bodies. Most are smaller.
const firstBody = 8 << 10

// bodyMemory bounds, in bytes, the large bodies that are read at once on connections that are proved, and as much again on
// those that are not.
const bodyMemory = 32 << 20

// bodies share the memory for large bodies. It is taken as they come, and by the peer's address: the access key that a
// request names is not proved before its body is read, and whoever knows only an access key id must not keep out its owner.
// Where there is too little, the body that is read longest by the peer with the most is refused.
type bodies struct{ unproved, proved *fairshare.Pool }

func newBodies() bodies { return bodies{fairshare.New(bodyMemory), fairshare.New(bodyMemory)} }

// readBody reads at most maxBody bytes. The memory grows with what has come, so that announcing a body costs nothing.
func (s *Server) readBody(r *http.Request, x *exchange) ([]byte, error) {
	var body bytes.Buffer
	body.Grow(min(max(int(r.ContentLength), 0), firstBody) + bytes.MinRead)
	if _, err := body.ReadFrom(io.LimitReader(r.Body, firstBody)); err != nil {
		return nil, errShortBody
	}
	if body.Len() < firstBody {
		return body.Bytes(), nil
	}
	return s.readLargeBody(r, x, body.Bytes())
}

// readLargeBody goes on with a body of which the first part has come.
func (s *Server) readLargeBody(r *http.Request, x *exchange, body []byte) ([]byte, error) {
	pool, peer := s.bodies.unproved, fairshare.PeerOf(r.RemoteAddr)
	if x.conn.proved() {
		pool = s.bodies.proved
	}
	giveUp := func() {
		// Ends the read. Where a connection has no deadlines, the next growth does.
		_ = x.control.SetReadDeadline(time.Unix(1, 0))
	}
	share := pool.Join(peer, len(body), giveUp)
	body, err := grow(share, r.Body, body)
	if !share.Leave() {
		// The read deadline may be set as late as now, so the connection must not be used for another request.
		return nil, errManyBodies
	}
	return body, err
}

// grow reads the rest of a body into as much memory as has come already, over and over.
func grow(share *fairshare.Share, rest io.Reader, body []byte) ([]byte, error) {
	body = body[:len(body):len(body)]
	for {
		if len(body) == cap(body) {
			size := 2 * len(body)
			if size >= maxBody {
				size = maxBody + 1 // the last byte shows that a body is too large
			}
			if !share.Grow(size - len(body)) {
				return nil, errManyBodies
			}
			body = append(make([]byte, 0, size), body...)
		}
		n, err := rest.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case len(body) > maxBody:
			return nil, errTooLarge
		case err == io.EOF:
			return body, nil
		case err != nil:
			return nil, errShortBody
		}
	}
}
