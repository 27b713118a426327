package statedir

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// ListenConfig is what a state directory says to its server. Empty fields are not configured.
type ListenConfig struct {
	API     string // host:port of the API
	Admin   string // host:port or unix:PATH of the admin listener, or off
	TLSCert string // absolute path of the certificate chain, PEM
	TLSKey  string // absolute path of its private key, PEM; there when TLSCert is

	LogRequests string // which requests are logged: all, errors or off
	ReusePort   bool   // by ListenShared

	Services []string // that are answered, kms among them
}

// LoadListenConfig reads the part of a state directory's config.yaml that is for its server, with the care and the
// errors of Load. Relative paths in the file begin at the state directory, so that it can be moved.
func LoadListenConfig(dir string) (ListenConfig, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return ListenConfig{}, err
	}
	if err := checkStateDir(dir); err != nil {
		return ListenConfig{}, err
	}
	path := filepath.Join(dir, configFile)
	state, err := readConfig(path)
	if err != nil {
		return ListenConfig{}, err
	}
	if (state.TLS.Cert == "") != (state.TLS.Key == "") {
		return ListenConfig{}, setupError(fmt.Sprintf("invalid %s: tls has only one of cert and key", path),
			"name the files of both the certificate chain and its private key", nil)
	}
	if err := checkLogRequests(state.Log.Requests); err != nil {
		return ListenConfig{}, invalidConfig(dir, fmt.Errorf("log.requests: %w", err))
	}
	services, err := servicesOf(state.Services)
	if err != nil {
		return ListenConfig{}, invalidConfig(dir, err)
	}
	return ListenConfig{API: state.Listen, Admin: state.AdminListen, TLSCert: inDir(dir, state.TLS.Cert), TLSKey: inDir(dir, state.TLS.Key),
		LogRequests: state.Log.Requests, ReusePort: state.ReusePort, Services: services}, nil
}

// checkLogRequests refuses what is no value of log.requests. An empty text means the default.
func checkLogRequests(text string) error {
	switch text {
	case "", "all", "errors", "off":
		return nil
	}
	return fmt.Errorf("%q is not one of all, errors, off", text)
}

// Services are what a server can answer, by the names that policies have for them. A new state directory has all of them. In one that was
// made before there was this setting, policies that allow all actions meant keys alone: there it is AWS KMS until its operator says more.
var Services = []string{"kms", "sts", "iam", "cloudtrail"}

func servicesOf(given []string) ([]string, error) {
	if given == nil {
		return Services[:1], nil
	}
	for _, name := range given {
		if !slices.Contains(Services, name) {
			return nil, fmt.Errorf("services: %q is not one of %s", name, strings.Join(Services, ", "))
		}
	}
	if !slices.Contains(given, Services[0]) {
		return nil, fmt.Errorf("services: %s is missing, which a server always answers", Services[0])
	}
	return given, nil
}
