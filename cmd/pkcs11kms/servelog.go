package main

import (
	"bytes"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/pkcs11kms/server"
)

const (
	logText = "text"
	logJSON = "json"
)

var (
	logFormats = []string{logText, logJSON}
	logLevels  = []string{"debug", "info", "warn", "error"}
)

// logRequests are the values of --log-requests.
func logRequests() []string {
	var values []string
	for _, value := range server.RequestLogs {
		values = append(values, string(value))
	}
	return values
}

// newLog makes the log of the server, which goes to standard error by a queue: the caller ends it.
func (a *app) newLog(format, level string) (*slog.Logger, *logQueue, error) {
	var least slog.Level
	if !slices.Contains(logLevels, level) || least.UnmarshalText([]byte(level)) != nil {
		return nil, nil, usagef("argument --log-level: %q is not one of %s", level, strings.Join(logLevels, ", "))
	}
	if a.debug {
		least = slog.LevelDebug
	}
	options := &slog.HandlerOptions{Level: least}
	var to func(io.Writer) slog.Handler
	switch format {
	case logText:
		to = func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, options) }
	case logJSON:
		options.ReplaceAttr = durationsWithUnits
		to = func(w io.Writer) slog.Handler { return slog.NewJSONHandler(visibleJSONLog(w), options) }
	default:
		return nil, nil, usagef("argument --log-format: %q is not one of %s", format, strings.Join(logFormats, ", "))
	}
	queue := newLogQueue(a.stderr, func(dropped int) []byte {
		var line bytes.Buffer
		slog.New(to(&line)).Error("lines of the log were dropped, since it was not read fast enough", "lines", dropped)
		return line.Bytes()
	})
	return slog.New(to(queue)), queue, nil
}

// durationsWithUnits writes durations as in the text form, such as 1.5ms: in JSON they would be numbers of nanoseconds, which
// nobody can see.
func durationsWithUnits(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
