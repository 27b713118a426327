// Package halfmade leaves in a SoftHSM token what a process leaves there that is killed while it makes a key, for tests.
package halfmade

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// The attributes that such an object has at the earliest, and how SoftHSM writes a number.
const (
	ckaClass   = 0x000
	ckaKeyType = 0x100
	isNumber   = 2
)

// Leave writes the file of an object of the class and key type (CKO_, CKK_) of which SoftHSM was just making the first attributes when its
// process was killed: the bytes are those that SoftHSM 2.6.1 leaves then. configFile is the token's softhsm2.conf, as package softhsm makes
// them, and serial the end of its serial number: where there is one token, it may be empty. Processes that have the token open see the
// object, too. It returns the path of the file.
func Leave(configFile, serial string, class, keyType uint) (file string, err error) {
	dir, err := directory(configFile, serial)
	if err != nil {
		return "", err
	}
	var object bytes.Buffer
	for _, n := range []uint{3, // times that it was written
		ckaClass, isNumber, class, ckaKeyType, isNumber, keyType} {
		object.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
	}
	name := filepath.Join(dir, uuid.NewString())
	file = name + ".object"
	return file, errors.Join(os.WriteFile(name+".lock", nil, 0o600), os.WriteFile(file, object.Bytes(), 0o600),
		changed(filepath.Join(dir, "generation")))
}

// directory finds that of a token.
func directory(configFile, serial string) (string, error) {
	all, err := filepath.Glob(filepath.Join(filepath.Dir(configFile), "tokens", "*"))
	if err != nil {
		return "", err
	}
	for _, dir := range all {
		if strings.HasSuffix(strings.ReplaceAll(dir, "-", ""), serial) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no directory of the token %s among %q", serial, all)
}

// changed has SoftHSM list the directory again.
func changed(generation string) error {
	count, err := os.ReadFile(generation)
	if err != nil {
		return err
	}
	return os.WriteFile(generation, binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(count)+1), 0o600)
}
