package statedir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// configYAML is config.yaml. Unknown keys are refused: one that is misspelt would be believed.
type configYAML struct {
	Account       string                `yaml:"account"`
	Partition     string                `yaml:"partition,omitempty"`
	DefaultRegion string                `yaml:"default-region"`
	Services      []string              `yaml:"services,omitempty,flow"` // of the server; absent: kms
	Regions       map[string]regionYAML `yaml:"regions"`
	Sessions      int                   `yaml:"sessions,omitempty"`
	SessionCopies string                `yaml:"session-copies,omitempty"`   // auto or off
	SealRecords   string                `yaml:"seal-records,omitempty"`     // auto or off
	RoleKeys      string                `yaml:"role-access-keys,omitempty"` // on or off
	CallTimeout   time.Duration         `yaml:"call-timeout,omitempty"`
	Listen        string                `yaml:"listen,omitempty"`
	ReusePort     bool                  `yaml:"reuse-port,omitempty"`
	AdminListen   string                `yaml:"admin-listen,omitempty"`
	TLS           tlsYAML               `yaml:"tls,omitempty"`
	Log           logYAML               `yaml:"log,omitempty"`
	Quotas        quotasYAML            `yaml:"quotas,omitempty"`
	Audit         auditYAML             `yaml:"audit,omitempty"`
}

type regionYAML struct {
	Token  string `yaml:"token"`
	Import string `yaml:"import,omitempty"` // token or software-unwrap; absent: by the token, SoftHSM's in either way
}

type tlsYAML struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

type logYAML struct {
	Requests string `yaml:"requests,omitempty"` // all, errors or off
}

// quotasYAML are Quotas; what is absent is the service's default. They are pointers because 0 would be taken for that
// default, and whoever writes it means something else.
type quotasYAML struct {
	Keys          *int   `yaml:"keys,omitempty"`
	AliasesPerKey *int   `yaml:"aliases-per-key,omitempty"`
	TagsPerKey    *int   `yaml:"tags-per-key,omitempty"`
	GrantsPerKey  *int   `yaml:"grants-per-key,omitempty"`
	PolicyBytes   *int   `yaml:"policy-bytes,omitempty"`
	Rates         string `yaml:"rates,omitempty"` // on or off
}

// quotas returns them as a Bridge takes them.
func (s quotasYAML) quotas() (pkcs11kms.Quotas, error) {
	q := pkcs11kms.Quotas{NoRates: s.Rates == "off"}
	if s.Rates != "" && s.Rates != "on" && s.Rates != "off" {
		return q, fmt.Errorf("quotas.rates is %q, neither on nor off", s.Rates)
	}
	for _, field := range []struct {
		name   string
		given  *int
		target *int
	}{
		{"keys", s.Keys, &q.Keys}, {"aliases-per-key", s.AliasesPerKey, &q.AliasesPerKey},
		{"tags-per-key", s.TagsPerKey, &q.TagsPerKey}, {"grants-per-key", s.GrantsPerKey, &q.GrantsPerKey},
		{"policy-bytes", s.PolicyBytes, &q.PolicyBytes},
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

func invalidConfig(dir string, err error) error {
	return setupError("invalid "+filepath.Join(dir, configFile), "correct the file by hand", err)
}

// inType is what the YAML decoder says about our types, which no operator knows.
var inType = regexp.MustCompile(` in type statedir\.\w+`)

func readConfig(path string) (*configYAML, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noStateDir(filepath.Dir(path), "has no "+configFile)
	}
	if err != nil {
		return nil, setupError("cannot read the state directory", "check the owner and the mode of the file", err)
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
	var state configYAML
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	err = dec.Decode(&state)
	if err == nil && !errors.Is(dec.Decode(new(any)), io.EOF) {
		err = errors.New("more than one YAML document")
	}
	if err != nil {
		err = errors.New(inType.ReplaceAllString(err.Error(), ""))
		return nil, setupError("invalid "+path, "the keys are account, partition, default-region, regions.NAME.token, regions.NAME.import,\n"+
			"sessions, session-copies, seal-records, role-access-keys, call-timeout, listen, reuse-port, admin-listen,\n"+
			"tls.cert, tls.key, log.requests, services,\n"+
			"quotas.keys, quotas.aliases-per-key, quotas.tags-per-key, quotas.grants-per-key, quotas.policy-bytes,\n"+
			"quotas.rates,\n"+
			"audit.file, audit.fsync, audit.rotate-bytes, audit.rotate-age, audit.keep-days, audit.keep-bytes, audit.stdout,\n"+
			"audit.token-seal, audit.syslog.address, audit.syslog.ca, audit.syslog.cert, audit.syslog.key,\n"+
			"audit.syslog.server-name, audit.syslog.facility", err)
	}
	return &state, nil
}
