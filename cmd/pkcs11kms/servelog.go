package main

import (
	"log/slog"
	"slices"
	"strings"
)

const (
	logText = "text"
	logJSON = "json"
)

var (
	logFormats = []string{logText, logJSON}
	logLevels  = []string{"debug", "info", "warn", "error"}
)

// newLog makes the log of the server, which goes to standard error.
func (a *app) newLog(format, level string) (*slog.Logger, error) {
	var least slog.Level
	if !slices.Contains(logLevels, level) || least.UnmarshalText([]byte(level)) != nil {
		return nil, usagef("argument --log-level: %q is not one of %s", level, strings.Join(logLevels, ", "))
	}
	if a.debug {
		least = slog.LevelDebug
	}
	options := &slog.HandlerOptions{Level: least}
	switch format {
	case logText:
		return slog.New(slog.NewTextHandler(a.stderr, options)), nil
	case logJSON:
		options.ReplaceAttr = durationsWithUnits
		return slog.New(slog.NewJSONHandler(visibleJSONLog(a.stderr), options)), nil
	}
	return nil, usagef("argument --log-format: %q is not one of %s", format, strings.Join(logFormats, ", "))
}

// durationsWithUnits writes durations as in the text form, such as 1.5ms: in JSON they would be numbers of nanoseconds, which
// nobody can see.
func durationsWithUnits(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
