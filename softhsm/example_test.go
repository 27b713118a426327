package softhsm_test

import (
	"fmt"
	"log"
	"os"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/softhsm"
)

// A token in a temporary directory, and a MAC by a key that never leaves it.
func Example() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	config, err := softhsm.Setup(dir)
	if err != nil {
		log.Fatal(err)
	}
	pin := softhsm.RandomPIN()
	tok, err := config.CreateToken("example", softhsm.RandomPIN(), pin)
	if err != nil {
		log.Fatal(err)
	}
	ctx, err := crypto11.Configure(&crypto11.Config{Path: tok.Module, TokenSerial: tok.Serial, Pin: pin})
	if err != nil {
		log.Fatal(err)
	}
	defer ctx.Close()
	key, err := ctx.GenerateSecretKey([]byte{1}, 256, crypto11.CipherGeneric)
	if err != nil {
		log.Fatal(err)
	}
	mac, err := key.NewHMAC(pkcs11.CKM_SHA256_HMAC, 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(mac, "a message")
	fmt.Printf("token %q made a MAC of %d bytes\n", tok.Label, len(mac.Sum(nil)))
	// Output: token "example" made a MAC of 32 bytes
}

func ExampleToken_URI() {
	tok := softhsm.Token{Module: "/usr/lib/softhsm/libsofthsm2.so", Label: "build farm", Serial: "395f59377b8298ff"}
	fmt.Println(tok.URI("/etc/farm/pin"))
	// Output: pkcs11:token=build%20farm;serial=395f59377b8298ff?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/farm/pin
}
