package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// The defaults of the fields of Config that may be left empty.
const (
	DefaultAccountID   = "000000000000"
	DefaultPartition   = "aws"
	DefaultRegion      = "us-east-1"
	DefaultMaxSessions = 32
	DefaultCallTimeout = 5 * time.Second
)

// Config says what a Bridge works with. Regions and Store are required; every other field has a default. Open copies what
// it needs and never changes the caller's struct. Package statedir reads one from a state directory.
type Config struct {
	// AccountID is the owner of the keys, 12 digits. Default DefaultAccountID.
	AccountID string
	// Partition is the second part of every ARN: aws, aws-cn, aws-us-gov and so on. Default DefaultPartition.
	Partition string
	// DefaultRegion is the region of the client that New returns. Default: the only region, or DefaultRegion.
	DefaultRegion string
	// Regions maps the name of each region to its token. At least one.
	Regions map[string]Region
	// OnlyRegion opens the token of this region alone; the keys of the others are not there. It must be one of Regions. Default: all.
	OnlyRegion string

	// Store holds the metadata. It is the caller's, who closes it after the Bridge, unless CloseStore is set.
	Store keystore.Store
	// CloseStore hands Store over: the Bridge closes it when it is closed itself, and Open when it fails.
	CloseStore bool
	// SealRecords has a store sealed when it is opened that holds no key, user or access key yet: see doctor.SealRecords, which seals others.
	// One that is sealed stays so. Default: it stays as it is. Configurations of state directories (statedir.Load) have it set.
	SealRecords bool

	// MaxSessions bounds the sessions that are open with each token. Default DefaultMaxSessions, or what the token
	// allows when that is less.
	MaxSessions int
	// NoSessionCopies has each use of a key be a use of the token's own object. Default: keys that are used often are copied into session
	// objects, which are faster, by tokens where that is known to be safe (SoftHSM, NSS).
	NoSessionCopies bool
	// CallTimeout bounds how long a call waits for a session, and how long one call of the token may take when the
	// context of the operation can end. Default DefaultCallTimeout.
	CallTimeout time.Duration

	// Quotas bound what the account may have and do. Default: those of AWS KMS.
	Quotas Quotas
	// NoRoleAccessKeys forbids to make access keys of roles, and to use those that there are: only sessions act for a role then, as in AWS.
	NoRoleAccessKeys bool
	// WaitForTokens lets Open succeed while the token of a region that was used before cannot be reached: that region's keys answer with
	// KeyUnavailableException until it can be. A wrong PIN, another token and a wrong configuration fail all the same. For servers, which
	// may be started before their HSM. Default: Open fails.
	WaitForTokens bool
	// ShortLived is for programs that do one thing and end: they never destroy keys whose deletion date has come, nor seal the
	// audit log.
	ShortLived bool

	// Audit is told of every call. Required: audit.Open makes one that writes files, which is sealed by a key in the token, and
	// audit.Discard keeps nothing.
	Audit audit.Writer
	// CloseAudit hands Audit over, where it is an io.Closer: the Bridge closes it when it is closed itself, and Open when it fails.
	CloseAudit bool
	// Logger takes what an operator must know and the detail behind internal errors. Never a PIN, a message or a
	// MAC. Default: nothing is logged.
	Logger *slog.Logger
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Region is the token that holds the keys of one region.
type Region struct {
	// Token is an RFC 7512 URI: pkcs11:token=kms?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/kms/pin.
	// token, serial, manufacturer and model select, and exactly one token must fit.
	Token string
	// PIN returns the user PIN. It is called at each login and the answer is kept nowhere. Default: the file named
	// by the URI's pin-source.
	PIN func(context.Context) (string, error)
	// SoftHSMConfig is the SOFTHSM2_CONF of a SoftHSM token. SoftHSM reads it when the module is initialised, so a
	// process can use one only. Default: the environment's.
	SoftHSMConfig string
	// TryLowPIN logs in although an earlier wrong PIN was noted by the token (CKF_USER_PIN_COUNT_LOW). Without it
	// such a token is refused, so that a program started again and again cannot lock it.
	TryLowPIN bool
	// Import says how envelopes with key material are opened that is imported: "token" (ImportByToken), or "software-unwrap"
	// (ImportSoftware), by which what the token does not open is opened in the memory of this process. Default: by the token; with a
	// SoftHSM token as with ImportSoftware.
	Import string
}

// The values of Region.Import.
const (
	ImportByToken  = string(keyring.ImportByToken)
	ImportSoftware = string(keyring.ImportSoftware)
)

var (
	accountPattern   = regexp.MustCompile(`^[0-9]{12}$`)
	partitionPattern = regexp.MustCompile(`^aws(-[a-z]+)*$`)
	regionPattern    = regexp.MustCompile(`^([a-z]+-){2,3}[0-9]+$`)
)

// WithDefaults returns a copy with the defaults filled in, or the first thing that is wrong. It does not look at Store, which
// Open alone needs.
func (cfg Config) WithDefaults() (Config, error) {
	setDefault(&cfg.AccountID, DefaultAccountID)
	setDefault(&cfg.Partition, DefaultPartition)
	setDefault(&cfg.MaxSessions, DefaultMaxSessions)
	setDefault(&cfg.CallTimeout, DefaultCallTimeout)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.OnlyRegion != "" {
		cfg.DefaultRegion = cfg.OnlyRegion
	}
	if len(cfg.Regions) == 1 && cfg.DefaultRegion == "" {
		for name := range cfg.Regions {
			cfg.DefaultRegion = name
		}
	}
	setDefault(&cfg.DefaultRegion, DefaultRegion)
	var err error
	if cfg.Quotas, err = cfg.Quotas.complete(); err != nil {
		return cfg, err
	}
	return cfg, cfg.check()
}

func (cfg Config) check() error {
	switch {
	case !accountPattern.MatchString(cfg.AccountID):
		return fmt.Errorf("account id %q is not 12 digits", cfg.AccountID)
	case !partitionPattern.MatchString(cfg.Partition):
		return fmt.Errorf("partition %q is not one of AWS's form", cfg.Partition)
	case cfg.MaxSessions < 1:
		return fmt.Errorf("the number of sessions %d is not positive", cfg.MaxSessions)
	case cfg.CallTimeout < time.Millisecond:
		return fmt.Errorf("the call timeout %v is too short", cfg.CallTimeout)
	case cfg.Audit == nil:
		return fmt.Errorf("no audit writer is given; audit.Discard keeps nothing")
	case len(cfg.Regions) == 0:
		return fmt.Errorf("no region is configured")
	}
	for name, region := range cfg.Regions {
		if !regionPattern.MatchString(name) {
			return fmt.Errorf("region name %q is not of the form us-east-1", name)
		}
		if region.Import != "" && region.Import != ImportByToken && region.Import != ImportSoftware {
			return fmt.Errorf("region %s: import is %q, neither %s nor %s", name, region.Import, ImportByToken, ImportSoftware)
		}
		if region.Token == "" {
			return fmt.Errorf("region %s has no token", name)
		}
	}
	if _, ok := cfg.Regions[cfg.OnlyRegion]; !ok && cfg.OnlyRegion != "" {
		return fmt.Errorf("the only region %q is not among the configured ones", cfg.OnlyRegion)
	}
	if _, ok := cfg.Regions[cfg.DefaultRegion]; !ok {
		return fmt.Errorf("the default region %q is not among the configured ones", cfg.DefaultRegion)
	}
	return nil
}

// TokenConfig is how the token of a region is opened, without what tells which it must be. It is for this module's other packages: the
// type is internal.
func (cfg Config) TokenConfig(region string) token.Config {
	r := cfg.Regions[region]
	return token.Config{
		URI:         r.Token,
		PIN:         r.PIN,
		SoftHSMConf: r.SoftHSMConfig,
		MaxSessions: cfg.MaxSessions,
		NoCopies:    cfg.NoSessionCopies,
		CallTimeout: cfg.CallTimeout,
		TryLowPIN:   r.TryLowPIN,
		Wait:        cfg.WaitForTokens,
		Logger:      cfg.Logger,
	}
}

// closeGiven closes the audit log and the store, if they were handed over.
func (cfg Config) closeGiven() (err error) {
	if log, ok := cfg.Audit.(io.Closer); ok && cfg.CloseAudit {
		err = log.Close()
	}
	if cfg.Store != nil && cfg.CloseStore {
		err = errors.Join(err, cfg.Store.Close())
	}
	return err
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// ReadPIN returns the user PIN: from the function PIN, or from the file that the URI's pin-source names. Whoever asks
// must not keep it.
func (r Region) ReadPIN(ctx context.Context) (string, error) {
	u, err := token.ParseURI(r.Token)
	if err != nil {
		return "", err
	}
	return token.ReadPIN(ctx, u, r.PIN)
}
