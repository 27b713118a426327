package pkcs11kms_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/softhsm"
)

// macs is what an application needs of KMS. *kms.Client and *pkcs11kms.Client both satisfy it.
type macs interface {
	GenerateMac(context.Context, *kms.GenerateMacInput, ...func(*kms.Options)) (*kms.GenerateMacOutput, error)
	VerifyMac(context.Context, *kms.VerifyMacInput, ...func(*kms.Options)) (*kms.VerifyMacOutput, error)
}

func sign(ctx context.Context, client macs, keyID, message string) error {
	made, err := client.GenerateMac(ctx, &kms.GenerateMacInput{
		KeyId: &keyID, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: []byte(message),
	})
	if err != nil {
		return err
	}
	_, err = client.VerifyMac(ctx, &kms.VerifyMacInput{
		KeyId: &keyID, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: []byte(message + "!"), Mac: made.Mac,
	})
	var invalid *types.KMSInvalidMacException
	fmt.Println("tag of", len(made.Mac), "bytes; changed message refused:", errors.As(err, &invalid))
	return nil
}

func Example() {
	ctx := context.Background()
	// A token and a store for the example. In production the URI names your HSM; package statedir has a directory for the rest.
	cfg, remove, found := exampleState(ctx)
	defer remove()
	if !found {
		fmt.Println("tag of 32 bytes; changed message refused: true") // nothing to show without SoftHSM
		return
	}
	client, err := pkcs11kms.New(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	made, err := client.CreateKey(ctx, &kms.CreateKeyInput{
		KeySpec:  types.KeySpecHmac256,
		KeyUsage: types.KeyUsageTypeGenerateVerifyMac,
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := sign(ctx, client, *made.KeyMetadata.KeyId, "message"); err != nil {
		log.Fatal(err)
	}
	// Output: tag of 32 bytes; changed message refused: true
}

// A role that may make MACs and do nothing else.
func ExampleClient_As() {
	ctx := context.Background()
	cfg, remove, found := exampleState(ctx)
	defer remove()
	if !found {
		fmt.Println("made a tag: true\nmay list keys: false") // nothing to show without SoftHSM
		return
	}
	bridge, err := pkcs11kms.Open(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer bridge.Close()
	nobody, err := bridge.Client("")
	if err != nil {
		log.Fatal(err)
	}
	made, err := nobody.As(bridge.Root()).CreateKey(ctx, &kms.CreateKeyInput{
		KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac,
	})
	if err != nil {
		log.Fatal(err)
	}
	role := iam.PrincipalName{Type: keystore.PrincipalRole, Name: "JwtProducer"}
	created, err := bridge.IAM().As(bridge.Root()).CreatePrincipal(ctx, role, iam.PrincipalOptions{})
	if err != nil {
		log.Fatal(err)
	}
	policy := `{"Version": "2012-10-17",
		"Statement": {"Effect": "Allow", "Action": "kms:GenerateMac", "Resource": "` + *made.KeyMetadata.Arn + `"}}`
	if err := bridge.IAM().As(bridge.Root()).PutPrincipalPolicy(ctx, role, "tokens", policy); err != nil {
		log.Fatal(err)
	}

	caller, err := bridge.Caller(ctx, created.ARN)
	if err != nil {
		log.Fatal(err)
	}
	producer := nobody.As(caller)
	_, err = producer.GenerateMac(ctx, &kms.GenerateMacInput{
		KeyId: made.KeyMetadata.KeyId, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: []byte("header.payload"),
	})
	fmt.Println("made a tag:", err == nil)
	_, err = producer.ListKeys(ctx, nil)
	fmt.Println("may list keys:", err == nil)
	// Output:
	// made a tag: true
	// may list keys: false
}

// exampleState makes a token and a store that remove ends. found tells whether there is a SoftHSM for it.
func exampleState(ctx context.Context) (cfg pkcs11kms.Config, remove func(), found bool) {
	parent, err := os.MkdirTemp("", "pkcs11kms-example-*")
	if err != nil {
		log.Fatal(err)
	}
	cfg, err = exampleConfig(ctx, parent)
	missing := errors.As(err, new(*softhsm.NotFoundError))
	if err != nil && !missing {
		log.Fatal(err)
	}
	return cfg, func() { os.RemoveAll(parent) }, !missing
}

// exampleConfig makes a SoftHSM token and a store, which the Bridge closes.
func exampleConfig(ctx context.Context, parent string) (pkcs11kms.Config, error) {
	conf, err := softhsm.Setup(filepath.Join(parent, "softhsm"))
	if err != nil {
		return pkcs11kms.Config{}, err
	}
	pin, pinFile := softhsm.RandomPIN(), filepath.Join(parent, "pin")
	tok, err := conf.CreateToken("example", softhsm.RandomPIN(), pin)
	if err != nil {
		return pkcs11kms.Config{}, err
	}
	if err := os.WriteFile(pinFile, []byte(pin), 0o600); err != nil {
		return pkcs11kms.Config{}, err
	}
	path := filepath.Join(parent, "kms.db")
	if err := sqlite.Create(path); err != nil {
		return pkcs11kms.Config{}, err
	}
	store, err := sqlite.Open(ctx, path, sqlite.Options{})
	return pkcs11kms.Config{
		Audit:   audit.Discard,
		Regions: map[string]pkcs11kms.Region{"us-east-1": {Token: tok.URI(pinFile)}},
		Store:   store, CloseStore: true,
	}, err
}
