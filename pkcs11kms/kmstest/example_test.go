package kmstest_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// The code under test takes an aws.Config, as it would for AWS. In a test, t is the *testing.T.
func Example() {
	t := &exampleT{}
	defer t.end()

	srv := kmstest.NewServer(t)
	client := kms.NewFromConfig(srv.Config())
	key := kmstest.MustCreateKey(t, client, types.KeySpecHmac256)

	tag, err := client.GenerateMac(context.Background(), &kms.GenerateMacInput{
		KeyId: key.KeyId, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: []byte("pay 5 EUR"),
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.VerifyMac(context.Background(), &kms.VerifyMacInput{
		KeyId: key.KeyId, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: []byte("pay 500 EUR"), Mac: tag.Mac,
	})
	var invalid *types.KMSInvalidMacException
	fmt.Println(len(tag.Mac), "bytes; another message is refused:", errors.As(err, &invalid))
	// Output: 32 bytes; another message is refused: true
}

// Code that takes an interface of KMS operations needs no server.
func ExampleNewClient() {
	t := &exampleT{}
	defer t.end()

	client := kmstest.NewClient(t, kmstest.Region("eu-central-1"))
	kmstest.MustCreateKey(t, client, types.KeySpecHmac512)
	out, err := client.ListKeys(context.Background(), &kms.ListKeysInput{Limit: aws.Int32(10)})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(out.Keys), "key in", client.Region())
	// Output: 1 key in eu-central-1
}

// exampleT stands in for *testing.T, which examples do not have.
type exampleT struct{ cleanups []func() }

func (t *exampleT) Helper()                   {}
func (t *exampleT) Cleanup(f func())          { t.cleanups = append(t.cleanups, f) }
func (t *exampleT) Logf(s string, a ...any)   { log.Printf(s, a...) }
func (t *exampleT) Errorf(s string, a ...any) { log.Printf(s, a...) }
func (t *exampleT) Skipf(s string, a ...any)  { log.Fatalf(s, a...) }
func (t *exampleT) Fatalf(s string, a ...any) { log.Fatalf(s, a...) }

func (t *exampleT) TempDir() string {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (t *exampleT) end() {
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		t.cleanups[i]()
	}
}
