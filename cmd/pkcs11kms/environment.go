package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/pkcs11kms/bridge/softhsm"
)

// variable is an environment variable that the program obeys. The help text is made of the same values that the code
// reads by.
type variable struct {
	name string
	flag string // the flag that wins over it, if any
	use  string
}

var (
	envStateDir   = variable{"PKCS11KMS_STATE_DIR", "--state-dir", "the state directory"}
	envPIN        = variable{"PKCS11KMS_PIN", "", "the token's user PIN, in place of the URI's pin-source"}
	envModule     = variable{softhsm.EnvModule, "", "the SoftHSM module, when it is in no usual place (init --softhsm)"}
	envSoftHSM    = variable{softhsm.EnvConfig, "", "SoftHSM's configuration, for a token that init --softhsm did not make"}
	allVariables  = []variable{envStateDir, envPIN, envModule, envSoftHSM}
	childSecrets  = []variable{envPIN} // never handed to a child process
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
		fmt.Fprintf(&b, "  %-20s %-12s %s\n", v.name, flag, v.use)
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
