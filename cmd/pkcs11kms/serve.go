package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/pkcs11kms/server"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// Where the server listens unless told otherwise. Port 4599 is next to one that other emulators of AWS services use.
const (
	defaultListen = "127.0.0.1:4599"
	defaultAdmin  = "127.0.0.1:4600"
	adminOff      = "off"
)

// serving is one run of the server: what its flags say, and what came of it. It is used by one goroutine.
type serving struct {
	app       *app
	listen    statedir.ListenConfig
	plaintext bool
	dev       bool
	logFormat string
	logLevel  string
	requests  string // which get a line in the log
	reusePort bool
	onHang    string
	hangTime  time.Duration
	copies    string

	reuseGiven bool // --reuse-port was given, or --reuse-port=false

	dir     string
	audited string // the directory of the audit log that is on this machine only; empty without one

	announced io.Writer // takes the line ready where standard output is for records; nil otherwise

	log    *slog.Logger
	logged *logQueue               // takes the lines of log
	stop   context.CancelCauseFunc // ends the run for a reason of its own
}

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "serve [flags]",
		GroupID: groupAdmin,
		Short:   "Answer the API over HTTP, for the aws CLI and every AWS SDK",
		Long: "Answer the API over HTTP, for the aws CLI and every AWS SDK.\n\n" +
			"Requests are signed with the access keys that \"iam create-access-key\" makes. Prints \"ready\" and the\n" +
			"addresses when it accepts connections, and logs one line a request to standard error (--log-requests).\n" +
			"SIGTERM and Ctrl-C stop it after the requests under way; SIGHUP reads the TLS certificate again, and makes a\n" +
			"lost token try at once to come back, also when its PIN was refused and the PIN file has changed. TLS is\n" +
			"required unless the address is one of this machine only. Flags win over the keys of the same names in\n" +
			"config.yaml. A store of an older version is migrated first, as by doctor --migrate.\n\n" +
			"With audit.syslog in config.yaml the records of the audit log go to a receiver of syslog, too, and with\n" +
			"audit.stdout to standard output, which then has nothing else (docs/audit.md).\n\n" +
			"With --reuse-port several servers of one state directory answer on one port, and the system shares new\n" +
			"connections out among them. Each needs an --admin-listen of its own; metrics and the rates that requests are\n" +
			"limited to are of each process. One that is stopped leaves the others serving.",
		Example: "  pkcs11kms serve\n" +
			"  pkcs11kms serve --listen 0.0.0.0:4599 --tls-cert server.crt --tls-key server.key --log-format json\n" +
			"  pkcs11kms serve --dev",
		Args:        noArguments,
		Annotations: map[string]string{allRegions: ""},
	}
	s := &serving{app: a}
	flags := cmd.Flags()
	flags.StringVar(&s.listen.API, "listen", "", "HOST:PORT of the API (default "+defaultListen+"); port 0 lets the system choose")
	flags.StringVar(&s.listen.Admin, "admin-listen", "", "HOST:PORT or unix:PATH of health and metrics, or off (default "+defaultAdmin+")")
	flags.StringVar(&s.listen.TLSCert, "tls-cert", "", "the file of the TLS certificate chain, PEM")
	flags.StringVar(&s.listen.TLSKey, "tls-key", "", "the file of its private key, PEM")
	flags.BoolVar(&s.reusePort, "reuse-port", false, "share the port with other servers of this state directory that have it (Linux)")
	flags.BoolVar(&s.plaintext, "allow-plaintext", false, "listen without TLS on any address: only behind a proxy that speaks it")
	flags.BoolVar(&s.dev, "dev", false, "for trying out: make the state directory when it is missing, and credentials")
	flags.StringVar(&s.logFormat, "log-format", logText, "the form of the log: text or json")
	flags.StringVar(&s.logLevel, "log-level", "info", "the least level to log: debug, info, warn or error")
	flags.StringVar(&s.requests, "log-requests", "", "the requests to log: all (default), errors or off; faults of the server always are")
	flags.StringVar(&s.onHang, "on-hang", hangWait, "when calls into a token's PKCS#11 module do not come back: wait, or exit with the code 4")
	flags.DurationVar(&s.hangTime, "hang-time", time.Minute, "how long a token must have hung for --on-hang exit")
	flags.StringVar(&s.copies, "session-copies", "", "auto: keys that are used often are copied in the token, which is faster; or off")
	must(cmd.RegisterFlagCompletionFunc("session-copies", cobra.FixedCompletions([]string{"auto", "off"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("on-hang", cobra.FixedCompletions([]string{hangWait, hangExit}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions(logFormats, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("log-requests", cobra.FixedCompletions(logRequests(), cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions(logLevels, cobra.ShellCompDirectiveNoFileComp)))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s.reuseGiven = cmd.Flags().Changed("reuse-port")
		return s.run(cmd.Context())
	}
	return cmd
}

// run serves until ctx ends, which is no error.
func (s *serving) run(ctx context.Context) (err error) {
	if s.log, s.logged, err = s.app.newLog(s.logFormat, s.logLevel); err != nil {
		return err
	}
	defer s.logged.end(logEndsAfter)
	hangups := s.watchHangups()
	defer hangups.end()
	listen, err := s.prepare(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	cfg, err := s.app.config()
	if err != nil {
		return err
	}
	if err := s.checkDevToken(cfg); err != nil {
		return err
	}
	if err := s.checkAudit(&cfg); err != nil {
		return err
	}
	cfg.Logger = s.log
	cfg.WaitForTokens = true
	if s.copies != "" {
		cfg.NoSessionCopies = s.copies == "off"
	}
	cfg.Quotas.NoRates = cfg.Quotas.NoRates || s.dev
	if _, err := cfg.Migrate(ctx); err != nil {
		return stopped(ctx, err)
	}
	bridge, err := statedir.Open(ctx, cfg)
	if err != nil {
		return stopped(ctx, err)
	}
	defer func() { err = s.closed(bridge.Close(), err) }()
	ctx, s.stop = context.WithCancelCause(ctx)
	defer s.stop(nil)
	hangups.start(bridge, listen.Certificate)
	return s.serve(ctx, bridge, cfg.DefaultRegion, listen)
}

// stopped forgets an error that only says that the start was called off.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// serve runs the server on an open Bridge.
func (s *serving) serve(ctx context.Context, bridge *pkcs11kms.Bridge, region string, listen server.Listen) error {
	if s.plaintext {
		s.log.Warn("PLAINTEXT: messages and MACs cross the network unprotected unless a proxy in front speaks TLS", "listen", listen.API)
	}
	listen.Ready = func(api, admin net.Addr) {
		if err := s.announce(ctx, bridge, region, api, admin); err != nil {
			s.stop(err)
		}
	}
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var notice sync.WaitGroup
	notice.Go(func() {
		<-ctx.Done()
		end() // before anything is written, which may block on a log that nobody reads
		if !errors.Is(context.Cause(ctx), errOver) {
			s.tell(notifyStopping)
			s.log.Info("stopping")
		}
	})
	if s.onHang == hangExit {
		notice.Go(func() { s.watchHangs(running, bridge) })
	}
	notice.Go(func() { s.watchPace(running, bridge) })
	err := server.New(bridge, s.options()).Run(running, listen)
	err = s.explainSharing(running, err)
	cause := context.Cause(ctx)
	s.stop(errOver)
	notice.Wait()
	return s.outcome(cause, err)
}

func (s *serving) options() server.Options {
	return server.Options{Services: s.listen.Services, Logger: s.log, LogRequests: server.RequestLog(s.requests), LogDropped: s.logged.Dropped}
}

// errOver ends what waits for the end of a server that has ended by itself.
var errOver = errors.New("the server has ended")

// outcome tells what to report of a run, given why its context ended and what the server says.
func (s *serving) outcome(cause, err error) error {
	switch {
	case cause == nil:
		return listenError(err)
	case !errors.Is(cause, context.Canceled):
		return errors.Join(cause, err)
	case err != nil:
		// report would call this an interrupt, which is what was asked for; that requests were cut off was not.
		s.log.Error("stopped", "error", err)
		return exitError(exitEnvironment)
	}
	s.log.Info("stopped")
	return nil
}

// closed tells what to report of a run after which the state directory was closed. To report, an error after a signal would be
// an interrupt; but the signal was obeyed, and this is something else.
func (s *serving) closed(closing, err error) error {
	if closing == nil {
		return err
	}
	s.log.Error("closing the state directory", "error", closing, "hint", s.app.followable(hintOf(closing)))
	if err == nil {
		return exitError(exitEnvironment)
	}
	return err
}

// announce tells that the server accepts connections: in the log, on standard output and to the service manager.
func (s *serving) announce(ctx context.Context, bridge *pkcs11kms.Bridge, region string, api, admin net.Addr) error {
	url := urlOf(api, s.listen.TLSCert != "")
	text := "ready " + url
	adminURL := adminOff
	if admin != nil {
		adminURL = urlOf(admin, s.listen.TLSCert != "" && !server.IsLocal(s.listen.Admin))
		text += " admin " + adminURL
	}
	if f := doctor.RunningFIPS140(); f.Mode != "off" {
		s.log.Info("FIPS 140-3 mode", "mode", f.Mode, "module", f.Module)
	}
	if s.audited != "" {
		s.log.Warn("the audit log is on this machine only: send it elsewhere (audit.syslog in config.yaml, or an agent that ships it), "+
			"or keep its head elsewhere (pkcs11kms audit head)", "dir", s.audited)
	}
	s.log.Info("ready", "listen", url, "admin-listen", adminURL)
	text += "\n"
	if s.dev {
		lines, err := s.devInstructions(ctx, bridge, region, url)
		if err != nil {
			return err
		}
		text += lines
	}
	s.tell(notifyReady)
	if s.announced != nil {
		_, err := io.WriteString(s.announced, text)
		return err
	}
	return s.app.write([]byte(text))
}

func urlOf(address net.Addr, tls bool) string {
	switch {
	case address.Network() == "unix":
		return unixPrefix + address.String()
	case tls:
		return "https://" + address.String()
	}
	return "http://" + address.String()
}

// listenError adds what can be done about an address that cannot be listened on.
func listenError(err error) error {
	var op *net.OpError
	switch {
	case err == nil || hintOf(err) != "":
		return err
	case errors.Is(err, server.ErrAdmin) && errors.Is(err, syscall.EADDRINUSE):
		return &environmentError{err, "another process listens there, and each server needs an admin listener of its own:\n" +
			"choose another address by --admin-listen; with 127.0.0.1:0 the system chooses a port, with unix:PATH there is none, and off"}
	case errors.Is(err, server.ErrPlaintext):
		return &usageError{err: err, hint: "give a certificate by --tls-cert FILE --tls-key FILE\n" +
			"behind a proxy on another machine that speaks TLS to the clients: --allow-plaintext (the API only)"}
	case errors.Is(err, syscall.EADDRINUSE):
		return &environmentError{err, "another process listens there: stop it, or choose other addresses by --listen and --admin-listen"}
	case errors.Is(err, os.ErrPermission):
		return &environmentError{err, "choose a port from 1024 on and, for a socket, a directory where this user may write"}
	case errors.As(err, &op) && op.Op == "listen":
		return &environmentError{err, "choose addresses of this machine by --listen and --admin-listen"}
	}
	return err
}
