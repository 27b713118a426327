package kmstest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/server"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
)

// TB is the part of testing.TB that this package needs; Fatalf and Skipf do not return. It is an interface of its own so
// that no program links package testing.
type TB interface {
	softhsm.TB
	Errorf(format string, args ...any)
	TempDir() string
}

// Option changes what NewServer and NewClient make.
type Option func(*settings)

type settings struct {
	region  string
	bridge  []func(*pkcs11kms.Config)
	options server.Options
}

// Region names the one region. Default: us-east-1.
func Region(name string) Option { return func(s *settings) { s.region = name } }

// Configure lets change edit the Bridge's configuration: account, clock, quotas, logger and so on. Region and token are
// set, and request rates are off, since tests ask more often than an account may; a store is made only when change names
// none.
func Configure(change func(*pkcs11kms.Config)) Option {
	return func(s *settings) { s.bridge = append(s.bridge, change) }
}

// ConfigureServer lets change edit the server's options: clock, logger, timeouts. NewClient does not use it.
func ConfigureServer(change func(*server.Options)) Option {
	return func(s *settings) { change(&s.options) }
}

func settingsOf(opts []Option) *settings {
	s := &settings{region: pkcs11kms.DefaultRegion, options: server.Options{Services: server.Services()}}
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// lifecycle is held while tokens are made and while Bridges begin and end: whoever makes a token must not lose the module
// meanwhile, nor take it from somebody else.
var lifecycle sync.Mutex

// openBridge opens a Bridge on a new token and a new store. It is closed when the test ends.
func openBridge(tb TB, s *settings) *pkcs11kms.Bridge {
	tb.Helper()
	lifecycle.Lock()
	defer lifecycle.Unlock() // also when tb ends this goroutine
	tok := softhsm.NewToken(tb)
	cfg := pkcs11kms.Config{
		Audit:         audit.Discard,
		DefaultRegion: s.region,
		Regions:       map[string]pkcs11kms.Region{s.region: {Token: tok.URI(tok.PINFile)}},
		Quotas:        pkcs11kms.Quotas{NoRates: true},
	}
	for _, change := range s.bridge {
		change(&cfg)
	}
	b, err := openOn(tb, cfg)
	if err != nil {
		tb.Fatalf("opening a bridge on a new token: %s", withHint(err))
	}
	tb.Cleanup(func() {
		lifecycle.Lock()
		defer lifecycle.Unlock()
		if err := b.Close(); err != nil {
			tb.Errorf("closing the bridge: %v", err)
		}
	})
	return b
}

// openOn opens a Bridge on the store of the configuration, or where it has none on a new one, which goes with the Bridge.
func openOn(tb TB, cfg pkcs11kms.Config) (*pkcs11kms.Bridge, error) {
	if cfg.Store != nil {
		return pkcs11kms.Open(context.Background(), cfg)
	}
	path := filepath.Join(tb.TempDir(), "kms.db")
	if err := sqlite.Create(path); err != nil {
		return nil, fmt.Errorf("making a store: %w", err)
	}
	return statedir.Open(context.Background(), statedir.Config{Config: cfg, StorePath: path})
}

func withHint(err error) string {
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return err.Error() + "\n" + h.Hint()
	}
	return err.Error()
}

// NewClient returns a client that works in process, as the account's root, on a token and a store of its own. All is gone
// when the test ends.
func NewClient(tb TB, opts ...Option) *pkcs11kms.Client {
	tb.Helper()
	b := openBridge(tb, settingsOf(opts))
	c, err := b.Client("")
	if err != nil {
		tb.Fatalf("making a client: %v", err)
	}
	return c.As(b.Root())
}

// MustCreateAccount makes another account, of 12 digits, and returns the client that works in process as its root, or fails the test. Its
// users and access keys are made by the IAM of that client.
func MustCreateAccount(tb TB, b *pkcs11kms.Bridge, id string) *pkcs11kms.Client {
	tb.Helper()
	c, err := b.Client("")
	if err == nil {
		_, err = c.As(b.Root()).CreateAccount(context.Background(), pkcs11kms.NewAccount{ID: id, Agreed: true})
	}
	if err != nil {
		tb.Fatalf("making the account %s: %s", id, withHint(err))
	}
	root, err := b.RootOf(context.Background(), id)
	if err != nil {
		tb.Fatalf("making the account %s: %v", id, err)
	}
	return c.As(root)
}

// KeyCreator is what MustCreateKey needs of a client: *kms.Client and *pkcs11kms.Client have it.
type KeyCreator interface {
	CreateKey(context.Context, *kms.CreateKeyInput, ...func(*kms.Options)) (*kms.CreateKeyOutput, error)
}

// MustCreateKey makes an HMAC key, or a signing key of an RSA or ECC spec, and returns its metadata, or fails the test.
func MustCreateKey(tb TB, api KeyCreator, spec types.KeySpec) *types.KeyMetadata {
	tb.Helper()
	usage := types.KeyUsageTypeSignVerify
	if strings.HasPrefix(string(spec), "HMAC_") {
		usage = types.KeyUsageTypeGenerateVerifyMac
	}
	out, err := api.CreateKey(context.Background(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
	if err != nil {
		tb.Fatalf("creating a key of spec %q: %v", spec, err)
	}
	return out.KeyMetadata
}
