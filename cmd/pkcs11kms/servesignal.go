package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/server"
)

// What the service manager is told; see sd_notify(3).
const (
	notifyReady    = daemon.SdNotifyReady
	notifyStopping = daemon.SdNotifyStopping
)

// tell informs the service manager, when there is one. That it does not listen is no reason to stop.
func (s *serving) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("the service manager does not take a notice", "notice", state, "error", err)
	}
}

// hangups takes SIGHUP for as long as the server starts and runs. It owns one goroutine, which end awaits.
type hangups struct {
	serving *serving
	signals chan os.Signal
	over    chan struct{}
	tasks   sync.WaitGroup
}

// watchHangups takes the signal away from the system, which would end the process. A development server leaves it
// there: its terminal was closed, and nobody would find it again.
func (s *serving) watchHangups() *hangups {
	h := &hangups{serving: s, signals: make(chan os.Signal, 1), over: make(chan struct{})}
	if !s.dev {
		signal.Notify(h.signals, syscall.SIGHUP)
	}
	return h
}

// start answers each SIGHUP by a reload of the certificate, by another look for tokens that are lost, and by a new file of the audit log;
// one that came before waits in the channel.
func (h *hangups) start(bridge *pkcs11kms.Bridge, certificate *server.Certificate) {
	h.tasks.Go(func() {
		for {
			select {
			case <-h.over:
				return
			case <-h.signals:
				bridge.RetryTokens()
				bridge.RotateAudit()
				h.serving.reload(certificate)
			}
		}
	})
}

func (h *hangups) end() {
	signal.Stop(h.signals)
	close(h.over)
	h.tasks.Wait()
}

// reload reads the certificate again. A file that cannot be used leaves everything as it was.
func (s *serving) reload(certificate *server.Certificate) {
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	if err == nil {
		s.tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
	}
	if certificate == nil {
		err = errors.New("no TLS certificate is configured")
	} else {
		err = certificate.Reload()
	}
	if err != nil {
		s.log.Error("nothing reloaded", "error", err)
	} else {
		s.log.Info("reloaded the TLS certificate", "file", s.listen.TLSCert)
	}
	s.tell(notifyReady)
}
