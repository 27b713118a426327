package server

import (
	"context"
	"log/slog"
	"syscall"
)

// Descriptors that are not for connections: the store, the log, certificates and the files of tokens must go on working
// while strangers hold all the connections that they can get. A module may have a socket and a file open for each session.
const (
	spareDescriptors      = 256
	descriptorsPerSession = 2
)

// The most connections there are of a kind, whatever the descriptors allow: each costs memory, of unproved ones up to
// maxHeader and the buffers of net/http and TLS.
const (
	maxUnproved      = 4096
	maxProved        = 16384
	maxAdminWaiting  = 256
	maxAdminAnswered = 64
)

// allotment says how many connections each listener may have. Their sum leaves the spare descriptors.
type allotment struct{ api, admin gateLimits }

// allot divides the descriptors that are left: the connections that wait on the API get at most half of them, so that those
// that are proved always have the other.
func allot(descriptors, sessions int) allotment {
	left := max(descriptors-spareFor(sessions), descriptors/2)
	admin := gateLimits{waiting: max(min(maxAdminWaiting, left/8), 1), admitted: max(min(maxAdminAnswered, left/16), 1)}
	left -= admin.waiting + admin.admitted
	unproved := max(min(maxUnproved, left/2), 1)
	return allotment{admin: admin, api: gateLimits{waiting: unproved, admitted: max(min(maxProved, left-unproved), 1)}}
}

func spareFor(sessions int) int { return spareDescriptors + descriptorsPerSession*sessions }

// descriptorLimit is how many descriptors the process may have open.
func descriptorLimit() int {
	const plenty = 1 << 20
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > plenty {
		return plenty
	}
	return int(limit.Cur)
}

// allot reads the limit of this process. A limit that leaves less than it should for everything else is logged.
func (s *Server) allot() allotment {
	sessions := 0
	for _, region := range s.bridge.Stats().Sessions {
		sessions += region.Size
	}
	limit := descriptorLimit()
	a := allot(limit, sessions)
	level := slog.LevelDebug
	text := "limits of connections"
	if limit < 2*spareFor(sessions) {
		level, text = slog.LevelWarn, "few descriptors: raise the limit of open files (LimitNOFILE, ulimit -n)"
	}
	s.log.LogAttrs(context.Background(), level, text, slog.Int("descriptors", limit), slog.Int("wanted", 2*spareFor(sessions)),
		slog.Int("api_unproved", a.api.waiting), slog.Int("api_proved", a.api.admitted), slog.Int("admin", a.admin.waiting+a.admin.admitted))
	return a
}
