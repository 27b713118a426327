package faultp11_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

// childVariable makes the test binary the host of a module instead: it asks C_GetInfo until that fails, and ends with its input.
const childVariable = "FAULTP11_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		beHost(path)
		return
	}
	os.Exit(m.Run())
}

func beHost(path string) {
	ctx := pkcs11.New(path)
	if ctx == nil {
		fmt.Println("the module cannot be loaded")
		os.Exit(1)
	}
	if err := ctx.Initialize(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for {
		if _, err := ctx.GetInfo(); err != nil {
			fmt.Println(err)
			break
		}
		time.Sleep(time.Millisecond)
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
}
