package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
)

func (a *app) adoptKeyCommand() *cobra.Command {
	cmd := verb(groupKeys, "adopt-key (--label LABEL | --id HEX) --key-spec SPEC [flags]",
		"Take a key that is in the token already under management",
		"The object, made by whatever application, becomes an enabled key with a new key id. It is not changed, and its\n"+
			"present users may go on. What is weaker about it than about keys of create-key is told on standard error, and\n"+
			"by doctor. When the key is deleted, the object stays in the token, except with --destroy-with-key.\n\n"+
			"Only a secret key, or a private key with its public one, with a CKA_ID of its own that may sign can be adopted;\n"+
			"\"doctor\" lists what there is. What counts is what the object does when it is tried: a token that cannot make\n"+
			"such keys may use them.",
		`pkcs11kms adopt-key --label sessions --key-spec HMAC_256 --description "sessions of the web shop"`,
		"pkcs11kms adopt-key --id 0a1b2c3d --key-spec HMAC_256 --destroy-with-key")
	cmd.Annotations = map[string]string{printsResponse: ""}
	var label, id, description *string
	var o doctor.AdoptOptions
	in := newInput(cmd)
	in.text(&label, "label", "the CKA_LABEL of the object")
	in.text(&id, "id", "the CKA_ID of the object, hexadecimal")
	made := pkcs11kms.KeySpecs()
	enum(in, &o.KeySpec, "key-spec", strings.Join(namesOf(made), ", ")+" (required)", made)
	in.text(&description, "description", "a text of up to 8192 characters")
	cmd.Flags().BoolVar(&o.DestroyWithKey, "destroy-with-key", false, "destroy the object when the key is deleted")
	in.require("key-spec")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if err := in.parse(); err != nil {
			return err
		}
		if (label == nil) == (id == nil) {
			return usagef("exactly one of the arguments --label and --id is required")
		}
		if id != nil {
			if o.ID, err = parseCKAID("id", *id); err != nil {
				return err
			}
		}
		o.Label, o.Description = aws.ToString(label), aws.ToString(description)
		return a.withRoot(cmd.Context(), func(client *pkcs11kms.Client) error { return a.adopt(cmd.Context(), client, o) })
	}
	return cmd
}

func (a *app) adopt(ctx context.Context, client *pkcs11kms.Client, o doctor.AdoptOptions) error {
	key, weaknesses, err := doctor.AdoptKey(ctx, client, o)
	var refused *pkcs11kms.RefusedError
	switch {
	case errors.As(err, &refused):
		return err // which names no operation of the API
	case err != nil:
		return &operationError{"AdoptKey", err}
	}
	for _, weakness := range weaknesses {
		fmt.Fprintf(a.stderr, "warning: the adopted object is %s\n", oneLine(weakness))
	}
	return keyChange("adopting", aws.ToString(key.KeyId)).shown(a.print("AdoptKey", newDocument(&kms.CreateKeyOutput{KeyMetadata: key})))
}

// parseCKAID reads the value of a flag that names an object.
func parseCKAID(flag, text string) ([]byte, error) {
	id, err := hex.DecodeString(text)
	if err != nil {
		return nil, &usageError{err: fmt.Errorf("argument --%s: %q is not hexadecimal", flag, text),
			hint: "doctor shows each CKA_ID in the right form"}
	}
	if len(id) == 0 {
		return nil, usagef("argument --%s: an empty CKA_ID names no object", flag)
	}
	return id, nil
}
