package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

const maxBody = 1 << 20

// Options says how a Server works. The zero value is right for most.
type Options struct {
	// Logger gets one line for each request that LogRequests names. Default: nothing is logged. No answer waits for it, but the next
	// request on the same connection does: a Logger that may stand still, such as one to a pipe, belongs behind a queue.
	Logger *slog.Logger
	// LogRequests says which requests get a line. Default: LogAll.
	LogRequests RequestLog
	// LogDropped counts the lines that Logger has dropped, where it does such a thing: a metric. Default: none.
	LogDropped func() int64
	// Services are the services that are answered beside AWS KMS, of those that Services names. Default: none. Policies that allow all
	// actions allow those of each service that is answered.
	Services []string
	// Now is the clock that the times of requests are compared with. Default: time.Now.
	Now func() time.Time
	// Skew is how far the time of a request may be off. Default: 5 minutes.
	Skew time.Duration
	// CallTimeout bounds one operation. Default: 10 seconds. CreateKey may take a minute longer.
	CallTimeout time.Duration
}

// Server answers the AWS KMS API over HTTP, and what Options.Services names beside it. It is an http.Handler, safe for concurrent use;
// the caller runs it and closes the Bridge after it.
type Server struct {
	bridge    *pkcs11kms.Bridge
	log       *slog.Logger
	requests  RequestLog
	timeout   time.Duration
	services  []*service
	verifiers map[*service]*sigv4.Verifier[identity] // never changed after New
	metrics   *metrics

	limits, adminLimits limits
	allotted            func() allotment // how many connections the listeners may have
	gates               *gates
	unsigned            *unsignedCalls
	bodies              bodies

	transport       *transportLog
	unauthenticated *rate.Limiter // of log lines about requests that nobody is known to have sent
	suppressed      atomic.Int64  // lines that it kept back since the last one
}

// New makes a Server on a Bridge.
func New(bridge *pkcs11kms.Bridge, o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = 10 * time.Second
	}
	s := &Server{
		bridge: bridge, log: o.Logger, requests: o.LogRequests, timeout: o.CallTimeout, metrics: newMetrics(bridge, o),
		unauthenticated: newLimiter(), transport: newTransportLog(o.Logger), unsigned: newUnsignedCalls(), gates: newGates(), bodies: newBodies(),
		services: enabled(o.Services), verifiers: map[*service]*sigv4.Verifier[identity]{},
		limits: defaultLimits, adminLimits: defaultAdminLimits,
	}
	s.allotted = s.allot
	s.metrics.registry.MustRegister(s.gates)
	for _, service := range s.services {
		s.verifiers[service] = s.newVerifier(service, o)
	}
	return s
}

// ServeHTTP answers one request, in the order of checks of the real service: operation, authentication, body,
// operation's own checks.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	x := exchange{id: uuid.NewString(), service: keyManagement, op: "unknown", control: http.NewResponseController(w),
		conn: connectionIn(r.Context())}
	defer x.conn.release()
	body, err := s.safely(r, &x)
	status := http.StatusOK
	header := w.Header()
	header.Set("Content-Type", x.service.codec.contentType)
	header.Set("X-Amzn-Requestid", x.id)
	header.Set("Cache-Control", "no-cache, no-store, must-revalidate, private")
	if err != nil {
		a := x.service.codec.answer(err)
		status, body = a.status, x.service.codec.failure(a, x.id)
		var m *misdirected
		if errors.As(err, &m) {
			var form string
			body, form = m.body(x.id)
			header.Set("Content-Type", form)
		}
		x.code = a.code
		header.Set("X-Amzn-Errortype", a.code)
	}
	took := time.Since(began)
	s.metrics.observe(x.op, x.code, took)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if x.accessKey == "" || len(r.TransferEncoding) > 0 || x.conn.ends() {
		// A stranger's connection is not kept waiting for more. One with a body in chunks is not kept either: whether it had a
		// Content-Length too, which a proxy may have believed, net/http does not tell (RFC 9112 section 6.1).
		header.Set("Connection", "close")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // whether the client still listens is its own business
	if flusher, ok := w.(http.Flusher); ok {
		flusher.Flush() // what was done is answered, whatever becomes of the log
	}
	s.record(r, &x, status, took, err)
}

// exchange is what is worth saying of a request in log and metrics.
type exchange struct {
	id        string   // also sent as x-amzn-RequestId
	service   *service // AWS KMS where a request names none
	op        string   // of the table, or "unknown"
	code      string   // of the error; empty for success
	accessKey string   // of whoever is proved to have sent it
	claimed   string   // the access key that it names and that exists; proved by nothing
	caller    string
	client    *pkcs11kms.Client // of that caller
	about     subject
	panicked  []slog.Attr // what is to be logged of a panic; nil without one

	control *http.ResponseController
	conn    *connection // nil where the server did not accept it itself
}

// safely answers a request whose handling panics as an internal error: net/http would drop the connection, and the panic
// with it.
func (s *Server) safely(r *http.Request, x *exchange) (body []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			// Whatever is no runtime error may hold what must not be logged.
			x.panicked = []slog.Attr{slog.String("request_id", x.id), slog.String("type", fmt.Sprintf("%T", v)),
				slog.String("stack", string(debug.Stack()))}
			body, err = nil, errPanic
			if x.client != nil { // the audit log may have heard of it or not; the request's id tells
				_ = x.client.Refused(r.Context(), x.service.signingName, x.op, nil, errPanicked)
			}
		}
	}()
	return s.answer(r, x)
}

func (s *Server) answer(r *http.Request, x *exchange) ([]byte, error) {
	if s.mayBeUnsigned(r) {
		return s.answerUnsigned(r, x)
	}
	service, name, err := s.serviceOf(r)
	if err != nil {
		return nil, s.misdirect(r)
	}
	x.service = service
	if name != "" {
		x.op = name
	}
	if r.ContentLength > maxBody {
		return nil, errTooLarge // not a byte of it is read
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.timeout)
	defer cancel()
	client, body, err := s.authenticate(ctx, r, x)
	if err != nil {
		return nil, err
	}
	if name == "" {
		if name, err = service.codec.named(service, body); err != nil {
			return nil, err
		}
		x.op = name
	}
	if op := ops.Find(service.signingName, name); op != nil && op.Longer > 0 {
		timeout := s.timeout + op.Longer
		longer, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		ctx = longer
		// Not every http.ResponseWriter has a deadline; those that have none do not need another.
		_ = x.control.SetWriteDeadline(time.Now().Add(timeout + s.limits.write))
	}
	out, err := service.operations[x.op](ctx, client, body, x)
	if early, ok := errors.AsType[*undone](err); ok {
		return nil, client.Refused(ctx, service.signingName, x.op, early.in, early.err)
	}
	return out, err
}
