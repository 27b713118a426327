package server

import (
	"errors"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// strangersPerSecond bounds the log lines about requests whose sender is not known: anybody can cause them.
const strangersPerSecond = 5

// RequestLog says which requests get a line in the log. A fault of the server itself (a status of 500 or more, a panic) always gets one.
type RequestLog string

// The values of RequestLog.
const (
	LogAll    RequestLog = "all"    // every request; the empty text means the same
	LogErrors RequestLog = "errors" // those that are answered with an error
	LogOff    RequestLog = "off"    // none
)

// RequestLogs are the values of RequestLog.
var RequestLogs = []RequestLog{LogAll, LogErrors, LogOff}

// wants tells whether a request with such an outcome is to have a line.
func (l RequestLog) wants(status int, err error) bool {
	switch {
	case status >= http.StatusInternalServerError:
		return true
	case l == LogErrors:
		return err != nil
	}
	return l != LogOff
}

// levelOf is the level of a request's line.
func levelOf(status int, err error) slog.Level {
	if err == nil {
		return slog.LevelInfo
	}
	if status >= http.StatusInternalServerError {
		return slog.LevelError
	}
	if _, ok := errors.AsType[*sigv4.Error](err); ok {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// record writes the one line of a request, where one is wanted. Of the request's members it holds the key or alias that was asked for and
// nothing else: messages and MACs are secrets. An access key that is not proved is called claimed.
func (s *Server) record(r *http.Request, x *exchange, status int, took time.Duration, err error) {
	if x.panicked != nil {
		s.log.LogAttrs(r.Context(), slog.LevelError, "panic", x.panicked...)
	}
	level := levelOf(status, err)
	if !s.requests.wants(status, err) || !s.log.Enabled(r.Context(), level) {
		return // before anything is made for the line
	}
	kept := int64(0)
	if x.accessKey == "" {
		if !s.unauthenticated.Allow() {
			s.suppressed.Add(1)
			return
		}
		kept = s.suppressed.Swap(0)
	}
	s.log.LogAttrs(r.Context(), level, "request", x.attributes(r.RemoteAddr, status, took, err, kept)...)
}

// attributes are those of the line of a request; kept is how many lines before it were kept back.
func (x *exchange) attributes(remote string, status int, took time.Duration, err error, kept int64) []slog.Attr {
	attrs := append(make([]slog.Attr, 0, 12), // room for all that follow
		slog.String("request_id", x.id),
		slog.String("operation", x.op),
		slog.Int("status", status),
		slog.Duration("took", took),
		slog.String("remote", remote),
	)
	if x.accessKey != "" {
		attrs = append(attrs, slog.String("access_key", x.accessKey), slog.String("caller", x.caller))
		attrs = x.about.appendTo(attrs)
	} else if x.claimed != "" {
		attrs = append(attrs, slog.String("claimed_access_key", x.claimed))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", x.code))
	}
	if auth, ok := errors.AsType[*sigv4.Error](err); ok {
		attrs = append(attrs, slog.String("reason", auth.Message))
	}
	if other, ok := errors.AsType[*misdirected](err); ok {
		attrs = append(attrs, slog.String("reason", other.message))
	}
	if status >= http.StatusInternalServerError {
		attrs = append(attrs, slog.String("cause", causes(err)))
	}
	if kept > 0 {
		attrs = append(attrs, slog.Int64("suppressed", kept))
	}
	return attrs
}

// causes is the text of everything that an error wraps; the API's own errors keep their cause out of their text.
func causes(err error) string {
	text := err.Error()
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		for _, cause := range several.Unwrap() {
			text += "; " + cause.Error()
		}
	}
	return text
}

func newLimiter() *rate.Limiter {
	return rate.NewLimiter(strangersPerSecond, 2*strangersPerSecond)
}
