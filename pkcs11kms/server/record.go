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

// record writes the one line of a request. Of the request's members it holds the key or alias that was asked for and
// nothing else: messages and MACs are secrets. An access key that is not proved is called claimed.
func (s *Server) record(r *http.Request, x *exchange, status int, took time.Duration, err error) {
	level := slog.LevelInfo
	attrs := append(make([]slog.Attr, 0, 12), // room for all that follow
		slog.String("request_id", x.id),
		slog.String("operation", x.op),
		slog.Int("status", status),
		slog.Duration("took", took),
		slog.String("remote", r.RemoteAddr),
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
	var auth *sigv4.Error
	if errors.As(err, &auth) {
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("reason", auth.Message))
	}
	var other *misdirected
	if errors.As(err, &other) {
		attrs = append(attrs, slog.String("reason", other.message))
	}
	if status >= http.StatusInternalServerError {
		level = slog.LevelError
		attrs = append(attrs, slog.String("cause", causes(err)))
	}
	if x.accessKey == "" {
		if !s.unauthenticated.Allow() {
			s.suppressed.Add(1)
			return
		}
		if n := s.suppressed.Swap(0); n > 0 {
			attrs = append(attrs, slog.Int64("suppressed", n))
		}
	}
	s.log.LogAttrs(r.Context(), level, "request", attrs...)
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
