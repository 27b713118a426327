package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) auditPublicKeyCommand() *cobra.Command {
	cmd := verb(groupAdmin, "public-key [--epoch NUMBER]", "Print the public key that verifies the seals of the audit log, in PEM",
		"The private half is in the HSM. Keep what is printed where nobody who may write to this machine may write, and\n"+
			"verify by it: \"audit verify --public-key FILE\", or openssl. The key is made when a server, or an application\n"+
			"with the library, makes the first seal: within a minute of its start, or at its end. Where it was followed by\n"+
			"others (\"service-key rotate audit\"), --epoch prints an earlier one; by the first one all are verified.",
		"pkcs11kms audit public-key > audit.pem",
		"pkcs11kms audit public-key --epoch 1")
	cmd.Annotations = map[string]string{allRegions: ""}
	epoch := cmd.Flags().Uint32("epoch", 0, "the number of the key; 0 is the one that seals now")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.config()
		if err != nil {
			return err
		}
		seals, err := cfg.AuditSeals(cmd.Context())
		if err != nil {
			return err
		}
		if *epoch == 0 {
			*epoch = seals.Newest
		}
		text, there := seals.Keys[*epoch]
		switch {
		case !seals.Key:
			return &environmentError{errors.New("the audit log has not been sealed yet, and there is no key for that"),
				"start a server: it makes the key with the first seal, within a minute or at its end"}
		case !there:
			return &environmentError{fmt.Errorf("no key of the seals has the number %d: the newest has %d", *epoch, seals.Newest),
				"see which there are: pkcs11kms service-key list"}
		case text == "":
			return &environmentError{errors.New("the token makes no key pairs: the audit log is sealed by MACs, which have no public key"),
				"verify where the token is: pkcs11kms audit verify"}
		}
		return a.printf("%s", text)
	}
	return cmd
}
