package pkcs11kms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// The files of a state directory. The store keeps its locks in "locks" beside it.
const (
	configFile  = "config.yaml"
	storeFile   = "kms.db"
	pinFile     = "pin"
	softHSMFile = "softhsm2.conf"
)

// stateConfig is config.yaml. Unknown keys are refused: one that is misspelt would be believed.
type stateConfig struct {
	Account       string                 `yaml:"account"`
	Partition     string                 `yaml:"partition,omitempty"`
	DefaultRegion string                 `yaml:"default-region"`
	Regions       map[string]stateRegion `yaml:"regions"`
	Sessions      int                    `yaml:"sessions,omitempty"`
	CallTimeout   time.Duration          `yaml:"call-timeout,omitempty"`
	Listen        string                 `yaml:"listen,omitempty"`
	AdminListen   string                 `yaml:"admin-listen,omitempty"`
	TLS           stateTLS               `yaml:"tls,omitempty"`
	Quotas        stateQuotas            `yaml:"quotas,omitempty"`
}

type stateRegion struct {
	Token string `yaml:"token"`
}

type stateTLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// stateQuotas are Quotas; what is absent is the service's default. They are pointers because 0 would be taken for that
// default, and whoever writes it means something else.
type stateQuotas struct {
	Keys          *int   `yaml:"keys,omitempty"`
	AliasesPerKey *int   `yaml:"aliases-per-key,omitempty"`
	TagsPerKey    *int   `yaml:"tags-per-key,omitempty"`
	PolicyBytes   *int   `yaml:"policy-bytes,omitempty"`
	Rates         string `yaml:"rates,omitempty"` // on or off
}

// quotas returns them as a Bridge takes them.
func (s stateQuotas) quotas() (Quotas, error) {
	q := Quotas{NoRates: s.Rates == "off"}
	if s.Rates != "" && s.Rates != "on" && s.Rates != "off" {
		return q, fmt.Errorf("quotas.rates is %q, neither on nor off", s.Rates)
	}
	for _, field := range []struct {
		name   string
		given  *int
		target *int
	}{
		{"keys", s.Keys, &q.Keys}, {"aliases-per-key", s.AliasesPerKey, &q.AliasesPerKey},
		{"tags-per-key", s.TagsPerKey, &q.TagsPerKey}, {"policy-bytes", s.PolicyBytes, &q.PolicyBytes},
	} {
		if field.given == nil {
			continue
		}
		if *field.given < 1 {
			return q, fmt.Errorf("quotas.%s is %d, not a positive number", field.name, *field.given)
		}
		*field.target = *field.given
	}
	return q, nil
}

// ListenConfig is what a state directory says about where its server listens. Empty fields are not configured.
type ListenConfig struct {
	API     string // host:port of the API
	Admin   string // host:port or unix:PATH of the admin listener, or off
	TLSCert string // absolute path of the certificate chain, PEM
	TLSKey  string // absolute path of its private key, PEM; there when TLSCert is
}

// LoadListenConfig reads the part of a state directory's config.yaml that is for its server, with the care and the
// errors of LoadConfig. Relative paths in the file begin at the state directory, so that it can be moved.
func LoadListenConfig(dir string) (ListenConfig, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return ListenConfig{}, err
	}
	if err := checkStateDir(dir); err != nil {
		return ListenConfig{}, err
	}
	path := filepath.Join(dir, configFile)
	state, err := readStateConfig(path)
	if err != nil {
		return ListenConfig{}, err
	}
	if (state.TLS.Cert == "") != (state.TLS.Key == "") {
		return ListenConfig{}, &SetupError{Problem: fmt.Sprintf("invalid %s: tls has only one of cert and key", path),
			Advice: "name the files of both the certificate chain and its private key"}
	}
	listen := ListenConfig{API: state.Listen, Admin: state.AdminListen, TLSCert: state.TLS.Cert, TLSKey: state.TLS.Key}
	for _, file := range []*string{&listen.TLSCert, &listen.TLSKey} {
		if *file != "" && !filepath.IsAbs(*file) {
			*file = filepath.Join(dir, *file)
		}
	}
	return listen, nil
}

// LoadConfig reads a state directory that Init made: config.yaml and, for its own SoftHSM token, softhsm2.conf (written
// anew when the directory has moved) and the file "pin", which serves every region whose token names no pin-source. The
// directory must belong to this process's user, be closed to others (0700, files 0600) and lie on a local file system.
// Errors have a Hint.
func LoadConfig(dir string) (Config, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Config{}, err
	}
	if err := checkStateDir(dir); err != nil {
		return Config{}, err
	}
	state, err := readStateConfig(filepath.Join(dir, configFile))
	if err != nil {
		return Config{}, err
	}
	cfg := Config{
		AccountID:     state.Account,
		Partition:     state.Partition,
		DefaultRegion: state.DefaultRegion,
		Regions:       map[string]Region{},
		StorePath:     filepath.Join(dir, storeFile),
		MaxSessions:   state.Sessions,
		CallTimeout:   state.CallTimeout,
	}
	if cfg.Quotas, err = state.Quotas.quotas(); err != nil {
		return Config{}, invalidConfig(dir, err)
	}
	conf, err := refreshSoftHSM(dir)
	if err != nil {
		return Config{}, err
	}
	for name, r := range state.Regions {
		uri, err := withPINFile(r.Token, filepath.Join(dir, pinFile))
		if err != nil {
			return Config{}, fmt.Errorf("region %s in %s: %w", name, configFile, err)
		}
		cfg.Regions[name] = Region{Token: uri, SoftHSMConfig: conf}
	}
	if _, err := cfg.complete(); err != nil {
		return Config{}, invalidConfig(dir, err)
	}
	return cfg, nil
}

func invalidConfig(dir string, err error) error {
	return &SetupError{"invalid " + filepath.Join(dir, configFile), "correct the file by hand", err}
}

// inType is what the YAML decoder says about our types, which no operator knows.
var inType = regexp.MustCompile(` in type pkcs11kms\.\w+`)

func readStateConfig(path string) (*stateConfig, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noStateDir(filepath.Dir(path), "has no "+configFile)
	}
	if err != nil {
		return nil, &SetupError{"cannot read the state directory", "check the owner and the mode of the file", err}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := checkPrivate(path, info); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, err
	}
	var state stateConfig
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	err = dec.Decode(&state)
	if err == nil && !errors.Is(dec.Decode(new(any)), io.EOF) {
		err = errors.New("more than one YAML document")
	}
	if err != nil {
		err = errors.New(inType.ReplaceAllString(err.Error(), ""))
		return nil, &SetupError{"invalid " + path, "the keys are account, partition, default-region, regions.NAME.token, sessions, call-timeout,\n" +
			"listen, admin-listen, tls.cert, tls.key,\n" +
			"quotas.keys, quotas.aliases-per-key, quotas.tags-per-key, quotas.policy-bytes, quotas.rates", err}
	}
	return &state, nil
}

func noStateDir(dir, what string) error {
	return &SetupError{Problem: fmt.Sprintf("state directory %q %s", dir, what),
		Advice: "make one: pkcs11kms init --softhsm --state-dir " + shellWord(dir) + "\n" +
			"or, with a real HSM: pkcs11kms init --token 'pkcs11:token=LABEL?module-path=/path/to/module.so&pin-source=file:/path/to/pin' --state-dir " +
			shellWord(dir)}
}

// shellWord quotes a path for a command that is to be pasted into a shell, where it needs that.
func shellWord(path string) string {
	if plainWord.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./+,:@%-]+$`)

// checkStateDir refuses a directory whose content others could read or have written.
func checkStateDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return noStateDir(dir, "does not exist")
	case err != nil:
		return &SetupError{"cannot look at the state directory", "check the owner and the modes of the path", err}
	case !info.IsDir():
		return &SetupError{Problem: fmt.Sprintf("state directory %q is not a directory", dir), Advice: "name a directory by --state-dir"}
	}
	if err := checkPrivate(dir, info); err != nil {
		return err
	}
	return checkLocal(dir)
}

// checkPrivate refuses a file or directory of another user, or one that others may use.
func checkPrivate(path string, info fs.FileInfo) error {
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return &SetupError{Problem: fmt.Sprintf("%q belongs to the user with the id %d, this process runs as %d", path, owner, os.Geteuid()),
			Advice: "run the command as the owner of the state directory, for example by sudo -u"}
	}
	if info.IsDir() && info.Mode()&fs.ModeSetgid != 0 && info.Mode().Perm()&0o070 != 0 {
		return &SetupError{Problem: fmt.Sprintf("%q is open to its group (mode %#o), as the root of a container's volume with fsGroup is", path, info.Mode().Perm()),
			Advice: "name a directory below it, which init makes with mode 0700, and set fsGroupChangePolicy: OnRootMismatch,\n" +
				"so that it stays closed; elsewhere, close this one: chmod go-rwx " + shellWord(path)}
	}
	if info.Mode().Perm()&0o077 != 0 {
		return &SetupError{Problem: fmt.Sprintf("%q is open to other users (mode %#o)", path, info.Mode().Perm()),
			Advice: "close it: chmod go-rwx " + shellWord(path) + "\nand ask yourself who may have used it meanwhile: whoever may use the state directory is root"}
	}
	return nil
}

// networkFileSystems are those on which locks and shared memory do not hold between machines (statfs(2), magic.h).
var networkFileSystems = map[int64]string{
	unix.NFS_SUPER_MAGIC:  "NFS",
	unix.SMB_SUPER_MAGIC:  "SMB",
	unix.CIFS_SUPER_MAGIC: "CIFS",
	unix.SMB2_SUPER_MAGIC: "SMB2",
	unix.AFS_SUPER_MAGIC:  "AFS",
	unix.CODA_SUPER_MAGIC: "Coda",
	unix.CEPH_SUPER_MAGIC: "Ceph",
	unix.NCP_SUPER_MAGIC:  "NCP",
	unix.V9FS_MAGIC:       "9P",
}

func checkLocal(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("looking at the file system of %q: %w", dir, err)
	}
	if name, ok := networkFileSystems[int64(st.Type)&0xffffffff]; ok {
		return &SetupError{Problem: fmt.Sprintf("state directory %q is on a network file system (%s)", dir, name),
			Advice: "use a local disk: the store's locks do not hold across a network"}
	}
	return nil
}

// refreshSoftHSM returns the SoftHSM configuration of the directory, or nothing when it has none.
func refreshSoftHSM(dir string) (string, error) {
	path := filepath.Join(dir, softHSMFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if err := checkPrivate(path, info); err != nil {
		return "", err
	}
	conf, err := softhsm.Setup(dir)
	if err != nil {
		return "", err
	}
	if len(conf.Restored) > 0 {
		slog.Warn("a process was killed while it logged in and left SoftHSM tokens without their data; restored as they were when they were made",
			"directory", conf.TokenDir, "serials", conf.Restored)
	}
	return conf.File, nil
}

// withPINFile completes the URI of a token by the PIN file of the state directory when it names none itself. It is
// kept out of config.yaml so that the directory can be moved.
func withPINFile(uri, path string) (string, error) {
	u, err := token.ParseURI(uri)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(path); u.PINFile == "" && err == nil {
		u.PINFile = path
	}
	return u.String(), nil
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
