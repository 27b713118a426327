package statedir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// auditDir is the directory of the audit log in a state directory.
const auditDir = "audit"

// AuditDir is where the audit log of a state directory is.
func AuditDir(dir string) string { return filepath.Join(dir, auditDir) }

// auditYAML is the section audit of config.yaml.
type auditYAML struct {
	File        string        `yaml:"file,omitempty"`  // on or off
	Fsync       string        `yaml:"fsync,omitempty"` // group, always or off
	RotateBytes *int64        `yaml:"rotate-bytes,omitempty"`
	RotateAge   time.Duration `yaml:"rotate-age,omitempty"`
	KeepDays    *int          `yaml:"keep-days,omitempty"`
	KeepBytes   *int64        `yaml:"keep-bytes,omitempty"`
	Stdout      bool          `yaml:"stdout,omitempty"` // of a server
	Syslog      *syslogYAML   `yaml:"syslog,omitempty"`
	TokenSeal   string        `yaml:"token-seal,omitempty"` // auto or off
}

// leastRotateBytes keeps a file from being closed for every few records.
const leastRotateBytes = 1 << 20

// options returns what the section says, and whether there is to be a log.
func (s auditYAML) options(dir string) (o audit.Options, on bool, err error) {
	o = audit.Options{Fsync: audit.Fsync(s.Fsync), RotateAge: s.RotateAge}
	if o.NoTokenSeal, err = isOff(s.TokenSeal); err != nil {
		return o, false, fmt.Errorf("audit.token-seal: %w", err)
	}
	switch {
	case !slices.Contains([]string{"", "on", "off"}, s.File):
		return o, false, fmt.Errorf("audit.file is %q, neither on nor off", s.File)
	case !slices.Contains([]audit.Fsync{"", audit.FsyncGroup, audit.FsyncAlways, audit.FsyncOff}, o.Fsync):
		return o, false, fmt.Errorf("audit.fsync is %q, not one of group, always, off", s.Fsync)
	case s.RotateAge < 0, s.RotateAge > 0 && s.RotateAge < time.Minute:
		return o, false, fmt.Errorf("audit.rotate-age is %v, less than a minute", s.RotateAge)
	case s.RotateBytes != nil && *s.RotateBytes < leastRotateBytes:
		return o, false, fmt.Errorf("audit.rotate-bytes is %d, less than %d", *s.RotateBytes, leastRotateBytes)
	}
	if s.RotateBytes != nil {
		o.RotateBytes = *s.RotateBytes
	}
	if err := s.keep(&o); err != nil {
		return o, false, err
	}
	if on = s.File != "off"; !on && (s.Stdout || s.Syslog != nil) {
		return o, false, errors.New("audit.stdout and audit.syslog get what is in the files, and audit.file is off")
	}
	o.Syslog, err = s.Syslog.options(dir)
	return o, on, err
}

// keep takes what the section says of how long files are kept.
func (s auditYAML) keep(o *audit.Options) error {
	switch {
	case s.KeepDays != nil && (*s.KeepDays < 1 || *s.KeepDays > mostKeepDays):
		return fmt.Errorf("audit.keep-days is %d, not 1 to %d", *s.KeepDays, mostKeepDays)
	case s.KeepBytes != nil && *s.KeepBytes < leastRotateBytes:
		return fmt.Errorf("audit.keep-bytes is %d, less than %d", *s.KeepBytes, leastRotateBytes)
	}
	if s.KeepDays != nil {
		o.KeepAge = time.Duration(*s.KeepDays) * 24 * time.Hour
	}
	if s.KeepBytes != nil {
		o.KeepBytes = *s.KeepBytes
	}
	return nil
}

// mostKeepDays is a hundred years.
const mostKeepDays = 36500

// notOpen is what Load has for the audit log that Open opens. A Bridge that is opened past Open refuses every call.
type notOpen struct {
	dir     string
	options audit.Options
}

var errAuditNotOpen = errors.New("the audit log of the state directory is not open: statedir.Open opens it")

func (notOpen) Intend(context.Context, audit.Event) error { return errAuditNotOpen }
func (notOpen) Record(context.Context, audit.Event) error { return errAuditNotOpen }

// Directory, Holds and TokenSeal are those of the audit log.
func (n notOpen) Directory() string        { return n.dir }
func (n notOpen) Holds(h audit.Head) error { return audit.Holds(n.dir, h) }
func (n notOpen) TokenSeal() bool          { return n.options.TokenSeal() }

// Audited records an operator's change of the state directory that is made without a Bridge, in the name of the account's root: an intent
// now, and by end what became of it, which end returns. in are its options, by their names. Without a record nothing may be changed.
func (cfg Config) Audited(ctx context.Context, operation string, in map[string]any) (end func(error) error, err error) {
	log, e, closing, err := cfg.operatorLog(operation, in)
	if err != nil {
		return nil, err
	}
	if err := log.Intend(ctx, e); err != nil {
		return nil, closing(err)
	}
	return func(err error) error {
		e.Kind, e.Intended, e.Err, e.Additional = audit.Call, true, err, audit.EndedAt(time.Now())
		return closing(errors.Join(err, log.Record(ctx, e)))
	}, nil
}

// operatorLog opens the audit log for an operator's change, of which it makes the intent. closing closes it, and adds its error.
func (cfg Config) operatorLog(operation string, in map[string]any) (log audit.Writer, e audit.Event, closing func(error) error, err error) {
	ready, err := cfg.WithDefaults()
	if err != nil {
		return nil, e, nil, err
	}
	if err := cfg.openAudit(&ready); err != nil {
		return nil, e, nil, err
	}
	e = audit.Event{Kind: audit.Intent, Service: "pkcs11kms", Operation: operation, Region: ready.DefaultRegion,
		Account: ready.AccountID, Principal: "arn:" + ready.Partition + ":iam::" + ready.AccountID + ":root", PrincipalID: ready.AccountID,
		RequestID: audit.NewID(), Input: in, Recorded: slices.Sorted(maps.Keys(in))}
	return ready.Audit, e, func(err error) error {
		if log, ok := ready.Audit.(io.Closer); ok && ready.CloseAudit {
			err = errors.Join(err, log.Close())
		}
		return err
	}, nil
}

// openAudit opens the audit log, and hands it to whoever opens a Bridge with the result.
func (cfg Config) openAudit(ready *pkcs11kms.Config) error {
	if _, ok := ready.Audit.(notOpen); !ok {
		return nil
	}
	o := cfg.AuditOptions
	o.Logger, o.Now = ready.Logger, ready.Now
	log, err := audit.Open(cfg.AuditDir, o)
	switch {
	case errors.Is(err, unix.EROFS):
		return setupError("the audit log cannot be written, and nothing is done without it",
			"The file system is mounted read-only: see the system's log for why, and mount it again for writing\n"+
				"where nothing needs to be recorded: audit.file: off in config.yaml", err)
	case errors.Is(err, audit.ErrSink):
		return setupError("the audit log cannot be opened, and nothing is done without it",
			"see to audit.syslog in config.yaml, and to the files that it names: they are PEM, and their paths begin at the state directory", err)
	case errors.Is(err, audit.ErrFull):
		return setupError("the audit log cannot be written, and nothing is done without it", "make room on the disk of "+cfg.AuditDir, err)
	case err != nil:
		return setupError("the audit log cannot be opened, and nothing is done without it",
			"see to the directory "+cfg.AuditDir+": it belongs to this user alone (mode 0700)", err)
	}
	ready.Audit, ready.CloseAudit = log, true
	return nil
}

// ErrNoSeals says that the records of a store are not sealed, so that it cannot be compared with the audit log.
var ErrNoSeals = errors.New("the records of the store have no seals")

// ErrRolledBack says that store or log are older than the token knows them.
var ErrRolledBack = keyring.ErrRolledBack

// StoredRecords returns the records of the store that the audit log is told of, for audit.CompareStore; it opens the token that unlocks the
// store. ErrNoSeals where they have none. They are returned with an ErrRolledBack, too, which is of the last seal that the token keeps.
func (cfg Config) StoredRecords(ctx context.Context) (stored audit.StoredRecords, err error) {
	with, err := cfg.WithDefaults()
	if err != nil {
		return stored, err
	}
	below, err := cfg.OpenStore(ctx)
	if err != nil {
		return stored, err
	}
	defer func() { err = errors.Join(err, below.Close()) }()
	ring := with.Keyring()
	if cfg.AuditOptions.TokenSeal() {
		ring.Holds = func(h audit.Head) error { return audit.Holds(cfg.AuditDir, h) }
	}
	store, closeToken, err := keyring.OpenSealed(ctx, ring, below)
	var rolledBack error
	if errors.Is(err, ErrRolledBack) {
		rolledBack, err = err, nil
	}
	if err != nil {
		return stored, err
	}
	defer func() { err = errors.Join(err, closeToken()) }()
	if _, there := store.Root(); !there {
		return stored, ErrNoSeals
	}
	stored, err = store.Stored(ctx)
	return stored, errors.Join(err, rolledBack)
}
