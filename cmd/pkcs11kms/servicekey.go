package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
)

func (a *app) serviceKeyCommand() *cobra.Command {
	cmd := operations("service-key", groupAdmin, "The keys that this program has for itself in the token, and their rotation",
		"Such keys make the secrets of access keys (access-keys), sign the seals of the audit log (audit) and make\n"+
			"the seals of the store's records (seal). Each can be followed by another one while servers run.",
		"pkcs11kms service-key list")
	cmd.AddGroup(&cobra.Group{ID: groupAdmin, Title: "Operations:"})
	cmd.AddCommand(a.listServiceKeysCommand(), a.rotateServiceKeyCommand(), a.retireServiceKeyCommand())
	return cmd
}

func (a *app) listServiceKeysCommand() *cobra.Command {
	cmd := verb(groupAdmin, "list", "List the service keys, the oldest of a purpose first",
		"Of those of one purpose, Present tells which makes what is new, and AccessKeys how many access keys there are\n"+
			"whose secrets one makes.",
		"pkcs11kms service-key list --output table")
	cmd.Annotations = map[string]string{printsResponse: "", allRegions: ""}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.withRoot(cmd.Context(), func(client *pkcs11kms.Client) error {
			keys, err := doctor.ServiceKeys(cmd.Context(), client)
			if err != nil {
				return err
			}
			text, err := json.Marshal(map[string]any{"ServiceKeys": append([]doctor.ServiceKey{}, keys...)})
			if err != nil {
				return err
			}
			return a.printJSON("ServiceKeys", text)
		})
	}
	return cmd
}

// servicePurpose is the argument of the verbs that have a purpose.
func servicePurpose(cmd *cobra.Command) {
	cmd.ValidArgs = doctor.ServicePurposes()
	cmd.Args = func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return usagef("the following arguments are required: PURPOSE, one of %s", strings.Join(doctor.ServicePurposes(), ", "))
		case len(args) > 1:
			return usagef("unknown options: %s", strings.Join(args[1:], ", "))
		case doctor.CheckServicePurpose(args[0]) != nil:
			return usagef("argument PURPOSE: %q is not one of %s", args[0], strings.Join(doctor.ServicePurposes(), ", "))
		}
		return nil
	}
}

func (a *app) rotateServiceKeyCommand() *cobra.Command {
	cmd := verb(groupAdmin, "rotate PURPOSE", "Have a service key followed by a new one",
		"Makes another key in the token, which every process uses from then on, without a restart; servers go on\n"+
			"meanwhile. What was interrupted is finished by running it again.\n\n"+
			"access-keys: access keys that are made from now on have their secrets from the new key. Those of before stay as\n"+
			"they are, and so does the old key, until \"service-key retire\".\n"+
			"audit: the log tells of the new key, signed by the old one: \"audit verify\" by the public key of the first\n"+
			"follows that. Keep the new one elsewhere, too: \"audit public-key\".\n"+
			"seal: all records of the store are sealed anew by the new key. A record that is not as it was written stops that\n"+
			"and is named. The old key stays, for backups of before, until \"service-key retire\".",
		"pkcs11kms service-key rotate access-keys")
	cmd.Annotations = map[string]string{allRegions: ""}
	servicePurpose(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.withRoot(cmd.Context(), func(client *pkcs11kms.Client) error {
			bar := a.counter("sealed records")
			epoch, err := doctor.RotateServiceKey(cmd.Context(), client, args[0], bar.set)
			bar.done()
			if err != nil {
				return err
			}
			made := change{fmt.Sprintf("rotating the service key for %s", args[0]), "to see which there are: pkcs11kms service-key list"}
			return made.shown(a.printf("rotated the service key for %s: number %d\n", args[0], epoch))
		})
	}
	return cmd
}

func (a *app) retireServiceKeyCommand() *cobra.Command {
	cmd := verb(groupAdmin, "retire PURPOSE --epoch NUMBER [--yes]", "Destroy a service key that was followed by another one",
		"Asks first. While anything needs the key it is refused, and told what does: access-keys, the access keys whose\n"+
			"secrets it makes; seal, the store that it seals. A backup that was made by a seal key which is retired cannot be\n"+
			"told from an edited one any more. The keys of the audit log are kept.",
		"pkcs11kms service-key retire seal --epoch 1 --yes")
	cmd.Annotations = map[string]string{allRegions: ""}
	servicePurpose(cmd)
	epoch := cmd.Flags().Uint32("epoch", 0, "the number of the key, as service-key list shows it")
	agreed := cmd.Flags().Bool("yes", false, "destroy it unasked")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *epoch == 0 {
			return usagef("the following arguments are required: --epoch")
		}
		if !*agreed && !isTerminal(a.stdin) {
			return &usageError{err: errors.New("service-key retire asks first, and the standard input is no terminal to answer at"),
				hint: fmt.Sprintf("pkcs11kms service-key retire %s --epoch %d --yes", args[0], *epoch)}
		}
		return a.withRoot(cmd.Context(), func(client *pkcs11kms.Client) error {
			if !*agreed {
				question := fmt.Sprintf("Shall the service key number %d for %s be destroyed in the token?", *epoch, args[0])
				yes, err := confirm(cmd.Context(), a.stdin, a.stderr, question)
				if err == nil && !yes {
					err = &pkcs11kms.RefusedError{Problem: "the service key is left as it is", Advice: "to destroy it, answer y"}
				}
				if err != nil {
					return err
				}
			}
			if err := doctor.RetireServiceKey(cmd.Context(), client, args[0], *epoch); err != nil {
				return err
			}
			made := change{fmt.Sprintf("retiring a service key for %s", args[0]), "to see which there are: pkcs11kms service-key list"}
			return made.shown(a.printf("retired the service key for %s with the number %d\n", args[0], *epoch))
		})
	}
	return cmd
}
