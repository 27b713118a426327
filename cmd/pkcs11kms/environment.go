package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/pkcs11kms/bridge/softhsm"
)

// variable is an environment variable that the program obeys. The help text is made of the same values that the code
// reads by. Those of AWS are read by its SDK, with many more.
type variable struct {
	name string
	flag string // the flag that wins over it, if any
	use  string
}

var (
	envStateDir     = variable{"PKCS11KMS_STATE_DIR", "--state-dir", "the state directory"}
	envPIN          = variable{"PKCS11KMS_PIN", "", "the user PIN, in place of pin-source; only where there is one region"}
	envModule       = variable{softhsm.EnvModule, "", "the SoftHSM module, when it is in no usual place (init --softhsm)"}
	envSoftHSM      = variable{softhsm.EnvConfig, "", "SoftHSM's configuration, for a token that init --softhsm did not make"}
	envKMSEndpoint  = variable{"AWS_ENDPOINT_URL_KMS", "--endpoint-url", "the server to ask, where no state directory is given"}
	envEndpoint     = variable{"AWS_ENDPOINT_URL", "--endpoint-url", "the same for all AWS services; or endpoint_url of the profile"}
	envAccessKey    = variable{"AWS_ACCESS_KEY_ID", "", "the access key, for a server"}
	envSecret       = variable{"AWS_SECRET_ACCESS_KEY", "", "its secret"}
	envSessionToken = variable{"AWS_SESSION_TOKEN", "", "its session token, of an access key that AssumeRole has given out"}
	envProfile      = variable{"AWS_PROFILE", "", "the profile of the AWS configuration, in place of an access key"}
	envRegion       = variable{"AWS_REGION", "--region", "the region, for a server"}
	envCABundle     = variable{"AWS_CA_BUNDLE", "", "certificates (PEM) of the authorities to trust, for a server"}
	envProcessors   = variable{"GOMAXPROCS", "", "the processors that Go uses; without it serve takes more for a slow token"}
	allVariables    = []variable{envStateDir, envPIN, envModule, envSoftHSM, envKMSEndpoint, envEndpoint, envAccessKey, envSecret,
		envSessionToken, envProfile, envRegion, envCABundle, envProcessors}
	childSecrets  = []variable{envPIN, envSecret, envSessionToken} // never handed to a child process
	noEnvironment = "-"
)

func (v variable) value() string { return os.Getenv(v.name) }

// environmentHelp is the table of the root help.
func environmentHelp() string {
	var b strings.Builder
	b.WriteString("Environment:\n")
	for _, v := range allVariables {
		flag := v.flag
		if flag == "" {
			flag = noEnvironment
		}
		fmt.Fprintf(&b, "  %-21s %-14s %s\n", v.name, flag, v.use)
	}
	return b.String()
}

// childEnvironment is this process's environment without secrets, and with more.
func childEnvironment(more ...string) []string {
	var env []string
next:
	for _, entry := range os.Environ() {
		for _, v := range childSecrets {
			if strings.HasPrefix(entry, v.name+"=") {
				continue next
			}
		}
		env = append(env, entry)
	}
	return append(env, more...)
}
