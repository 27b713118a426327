package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

const externalHelp = "create-key makes such keys with --origin EXTERNAL."

func (a *app) getParametersForImportCommand() *cobra.Command {
	cmd := verb(groupKeys, "get-parameters-for-import --key-id ID --wrapping-algorithm ALGORITHM --wrapping-key-spec SPEC",
		"Get what an import of key material needs",
		"Prints a public key, to wrap the key material with, and an import token, which are good for 24 hours.\n"+externalHelp+"\n"+
			"import-key-material --plaintext-file does all of it in one step.",
		"pkcs11kms get-parameters-for-import --key-id 1234abcd-12ab-34cd-56ef-1234567890ab \\\n"+
			"    --wrapping-algorithm RSAES_OAEP_SHA_256 --wrapping-key-spec RSA_4096")
	var req kms.GetParametersForImportInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	enum(in, &req.WrappingAlgorithm, "wrapping-algorithm", "RSAES_OAEP_SHA_256, RSAES_OAEP_SHA_1, RSA_AES_KEY_WRAP_SHA_256 "+
		"or RSA_AES_KEY_WRAP_SHA_1 (required)", types.AlgorithmSpec("").Values())
	enum(in, &req.WrappingKeySpec, "wrapping-key-spec", "RSA_2048, RSA_3072 or RSA_4096 (required)", types.WrappingKeySpec("").Values())
	in.require("key-id", "wrapping-algorithm", "wrapping-key-spec")
	cmd.RunE = answering(a, in, "GetParametersForImport", api.GetParametersForImport, &req)
	return cmd
}

// importRequest is what import-key-material is asked for: ImportKeyMaterial or, with a file, all three steps.
type importRequest struct {
	kms.ImportKeyMaterialInput
	algorithm types.AlgorithmSpec
	spec      types.WrappingKeySpec
}

func (a *app) importKeyMaterialCommand() *cobra.Command {
	cmd := verb(groupKeys,
		"import-key-material --key-id ID (--plaintext-file FILE | --import-token BLOB --encrypted-key-material BLOB) [flags]",
		"Import key material into the token",
		"With --plaintext-file the key material is read from the file, or from standard input for -, wrapped here, and\n"+
			"imported. Else it has been wrapped by the parameters of get-parameters-for-import.\n"+externalHelp+"\n"+
			"Material that was imported once can be imported again, to change when it expires; no other can.",
		"pkcs11kms import-key-material --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --plaintext-file key.bin \\\n"+
			"    --expiration-model KEY_MATERIAL_DOES_NOT_EXPIRE",
		"pkcs11kms import-key-material --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --import-token fileb://token.bin \\\n"+
			"    --encrypted-key-material fileb://wrapped.bin --valid-to 2027-01-31T12:00:00Z")
	var req importRequest
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.blob(&req.ImportToken, "import-token", "that of get-parameters-for-import: base64, or fileb://PATH")
	in.blob(&req.EncryptedKeyMaterial, "encrypted-key-material", "the wrapped key material: base64, or fileb://PATH")
	in.timestamp(&req.ValidTo, "valid-to", "when the material expires: a time like 2027-01-31T12:00:00Z, or seconds since 1970")
	enum(in, &req.ExpirationModel, "expiration-model", "KEY_MATERIAL_EXPIRES (default) or KEY_MATERIAL_DOES_NOT_EXPIRE",
		types.ExpirationModelType("").Values())
	enum(in, &req.ImportType, "import-type", "for symmetric encryption keys only", types.ImportType("").Values())
	in.text(&req.KeyMaterialDescription, "key-material-description", "for symmetric encryption keys only")
	in.text(&req.KeyMaterialId, "key-material-id", "for symmetric encryption keys only")
	file := cmd.Flags().String("plaintext-file", "", "a file with the key material itself, or - for standard input")
	enum(in, &req.algorithm, "wrapping-algorithm", "with --plaintext-file: RSAES_OAEP_SHA_256 (default), RSAES_OAEP_SHA_1, ...",
		types.AlgorithmSpec("").Values())
	enum(in, &req.spec, "wrapping-key-spec", "with --plaintext-file: RSA_4096 (default), RSA_3072 or RSA_2048",
		types.WrappingKeySpec("").Values())
	in.require("key-id")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		wraps := cmd.Flags().Changed("plaintext-file")
		for _, flag := range []string{"import-token", "encrypted-key-material"} {
			switch given := cmd.Flags().Changed(flag); {
			case given && wraps:
				return usagef("--plaintext-file and --%s do not go together", flag)
			case !given && !wraps:
				return usagef("the following arguments are required: --%s, or --plaintext-file", flag)
			}
		}
		if wraps {
			return a.importFile(cmd, in, &req, *file)
		}
		return changing(a, in, "ImportKeyMaterial", api.ImportKeyMaterial, &req.ImportKeyMaterialInput, imported(&req))(cmd, args)
	}
	return cmd
}

func imported(req *importRequest) func(*kms.ImportKeyMaterialOutput) change {
	return func(*kms.ImportKeyMaterialOutput) change {
		return keyChange("importing the material of", aws.ToString(req.KeyId))
	}
}

// mostMaterial is more than any key material has, in bytes.
const mostMaterial = 6144

// importFile reads, wraps and imports key material.
func (a *app) importFile(cmd *cobra.Command, in *input, req *importRequest, path string) error {
	if err := in.parse(); err != nil {
		return err
	}
	material, err := a.readMaterial(path)
	defer clear(material)
	if err != nil {
		return err
	}
	if req.algorithm == "" {
		req.algorithm = types.AlgorithmSpecRsaesOaepSha256
	}
	if req.spec == "" {
		req.spec = types.WrappingKeySpecRsa4096
	}
	return a.withClient(cmd.Context(), func(client api) error {
		out, err := wrapAndImport(cmd.Context(), client, req, material)
		if err != nil {
			return err
		}
		return imported(req)(out).shown(a.print("ImportKeyMaterial", newDocument(out)))
	})
}

func wrapAndImport(ctx context.Context, client api, req *importRequest, material []byte) (*kms.ImportKeyMaterialOutput, error) {
	with, err := call(ctx, client, "GetParametersForImport", api.GetParametersForImport, &kms.GetParametersForImportInput{KeyId: req.KeyId,
		WrappingAlgorithm: req.algorithm, WrappingKeySpec: req.spec})
	if err != nil {
		return nil, err
	}
	req.ImportToken = with.ImportToken
	if req.EncryptedKeyMaterial, err = pkcs11kms.WrapKeyMaterial(req.algorithm, with.PublicKey, material); err != nil {
		return nil, &operationError{"ImportKeyMaterial", err}
	}
	return call(ctx, client, "ImportKeyMaterial", api.ImportKeyMaterial, &req.ImportKeyMaterialInput)
}

// readMaterial reads a file as it is, into memory that is not copied: whoever calls it clears that.
func (a *app) readMaterial(path string) ([]byte, error) {
	source := a.stdin
	if path != standardInput {
		f, err := os.Open(path)
		if err != nil {
			return nil, usagef("argument --plaintext-file: %v", err)
		}
		defer f.Close()
		source = f
	}
	buf := make([]byte, mostMaterial+1)
	n, err := io.ReadFull(source, buf)
	switch {
	case err == nil:
		return buf, usagef("argument --plaintext-file: it has more than %d bytes", mostMaterial)
	case err != io.EOF && err != io.ErrUnexpectedEOF:
		return buf, fmt.Errorf("reading the key material: %w", err)
	case n == 0:
		return buf, usagef("argument --plaintext-file: it is empty")
	}
	return buf[:n], nil
}

func (a *app) deleteImportedKeyMaterialCommand() *cobra.Command {
	cmd := verb(groupKeys, "delete-imported-key-material --key-id ID", "Destroy the imported material of a key",
		"The material is destroyed in the token at once; the key stays, and is PendingImport. To use it again, import\n"+
			"the same material.",
		"pkcs11kms delete-imported-key-material --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.DeleteImportedKeyMaterialInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.text(&req.KeyMaterialId, "key-material-id", "for symmetric encryption keys only")
	in.require("key-id")
	cmd.RunE = changing(a, in, "DeleteImportedKeyMaterial", api.DeleteImportedKeyMaterial, &req,
		func(*kms.DeleteImportedKeyMaterialOutput) change {
			return keyChange("deleting the material of", aws.ToString(req.KeyId))
		})
	return cmd
}

// timestamp is a member that is a time.
func (in *input) timestamp(target **time.Time, flag, usage string) {
	raw := in.cmd.Flags().String(flag, "", usage)
	in.add(flag, func() error {
		if seconds, err := strconv.ParseFloat(*raw, 64); err == nil && seconds >= 0 && seconds < 1e11 {
			*target = aws.Time(time.UnixMilli(int64(seconds * 1000)).UTC())
			return nil
		}
		for _, layout := range []string{time.RFC3339, time.DateOnly} {
			if at, err := time.Parse(layout, *raw); err == nil {
				*target = &at
				return nil
			}
		}
		return fmt.Errorf("is no time like 2027-01-31T12:00:00Z, nor seconds since 1970")
	})
}
