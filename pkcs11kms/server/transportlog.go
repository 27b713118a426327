package server

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// transportLog takes what net/http has to say: what clients do wrong on the transport, failed TLS handshakes, and, which
// matters most, that no more connections can be accepted. Safe for concurrent use.
type transportLog struct {
	log        *slog.Logger
	handshakes *rate.Limiter
	suppressed atomic.Int64 // handshakes without a line since the last line
}

func newTransportLog(log *slog.Logger) *transportLog {
	return &transportLog{log: log, handshakes: newLimiter()}
}

// handshakeFailed is how net/http begins its line about a failed TLS handshake; address and reason follow.
const handshakeFailed = "http: TLS handshake error from "

// Write takes one line.
func (t *transportLog) Write(p []byte) (int, error) {
	text := strings.TrimSpace(string(p))
	if rest, ok := strings.CutPrefix(text, handshakeFailed); ok {
		t.handshake(rest)
		return len(p), nil
	}
	level := slog.LevelDebug
	if strings.Contains(text, "Accept error") {
		level = slog.LevelError
	}
	t.log.Log(context.Background(), level, text)
	return len(p), nil
}

// handshake logs a failed handshake, at a limited rate: anybody can cause them. Those that the server cut off to make room
// are told of by the gate.
func (t *transportLog) handshake(text string) {
	remote, reason, _ := strings.Cut(text, ": ")
	if strings.Contains(reason, net.ErrClosed.Error()) {
		return
	}
	if !t.handshakes.Allow() {
		t.suppressed.Add(1)
		return
	}
	attrs := []slog.Attr{slog.String("remote", remote), slog.String("reason", reason)}
	if n := t.suppressed.Swap(0); n > 0 {
		attrs = append(attrs, slog.Int64("suppressed", n))
	}
	t.log.LogAttrs(context.Background(), slog.LevelWarn, "TLS handshake failed", attrs...)
}
