package main

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/server"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// reuseDrain is how long a server that shares its port lets the clients that it has find the others, once it is told to stop.
const reuseDrain = 2 * time.Second

// explainSharing adds to the error of a server without --reuse-port that servers with it have the port.
func (s *serving) explainSharing(ctx context.Context, err error) error {
	if s.reusePort || errors.Is(err, server.ErrAdmin) || !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	if shared, lookErr := statedir.SharesPort(ctx, s.dir, s.listen.API); lookErr != nil || !shared {
		return err
	}
	return &environmentError{err, "servers of this state directory share that port: start this one with --reuse-port, too, or stop them,\n" +
		"or choose another address by --listen"}
}
