package token

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// maxPINFile bounds the PIN file. PINs have at most 255 bytes on every token known; AWS CloudHSM's is "user:password".
const maxPINFile = 1024

// pinSource reads the PIN each time that it is needed. stamp tells one state of the source from another without knowing
// the PIN, so that a PIN which was refused is not tried again unless the file was changed.
type pinSource struct {
	file     string
	exact    bool // see takePIN
	callback func(context.Context) (string, error)
}

// pinSourceOf is the callback, or else the file that the URI names.
func pinSourceOf(uri URI, callback func(context.Context) (string, error)) pinSource {
	return pinSource{file: uri.PINFile, exact: uri.PINExact, callback: callback}
}

func (p pinSource) read(ctx context.Context) (pin, stamp string, err error) {
	if p.callback != nil {
		pin, err = p.callback(ctx)
		if err != nil {
			return "", "", refuse(PINSource, err, "asking for the token's PIN", "check where the PIN comes from")
		}
		pin, err = takePIN("the token's PIN", []byte(pin), p.exact)
		return pin, "callback", err
	}
	if p.file == "" {
		return "", "", refuse(PINSource, nil, "no source of the token's PIN is given",
			"add pin-source=file:/path/to/pin to the URI, and put the PIN into that file")
	}
	return readPINFile(p.file, p.exact)
}

// readPINFile reads a PIN file that only its owner, and perhaps a group, can read and only its owner can write.
func readPINFile(path string, exact bool) (pin, stamp string, err error) {
	// Without O_NONBLOCK the open of a named pipe would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", refuse(PINSource, nil, fmt.Sprintf("PIN file %q does not exist", path),
			"put the PIN of the token's user into it, readable by this user alone (chmod 600)")
	}
	if err != nil {
		return "", "", refuse(PINSource, err, "opening the PIN file", "check the file's owner and mode: this user must be able to read it")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", "", refuse(PINSource, err, "looking at the PIN file", "check the file")
	}
	if err := checkPINFile(path, info); err != nil {
		return "", "", err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPINFile+1))
	defer clear(text)
	if err != nil {
		return "", "", refuse(PINSource, err, "reading the PIN file", "check the file")
	}
	pin, err = takePIN(fmt.Sprintf("PIN file %q", path), text, exact)
	return pin, fmt.Sprintf("%s %d %d %v", path, inode(info), info.Size(), info.ModTime().UnixNano()), err
}

func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

func owner(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

func checkPINFile(path string, info fs.FileInfo) error {
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return refuse(PINSource, nil, fmt.Sprintf("PIN file %q is not a regular file", path), "name a file that holds the PIN")
	case owner(info) != 0 && owner(info) != os.Geteuid():
		return refuse(PINSource, nil, fmt.Sprintf("PIN file %q belongs to the user with the id %d", path, owner(info)),
			fmt.Sprintf("give it to the user that runs this program, or to root: "+
				"whoever owns it can change it and lock the token: chown %d %q", os.Geteuid(), path))
	case mode.Perm()&0o007 != 0:
		return refuse(PINSource, nil, fmt.Sprintf("PIN file %q is open to other users (mode %#o)", path, mode.Perm()),
			fmt.Sprintf("chmod 600 %q, and change the PIN if others may have read it", path))
	case mode.Perm()&0o020 != 0:
		return refuse(PINSource, nil, fmt.Sprintf("PIN file %q can be written by its group (mode %#o)", path, mode.Perm()),
			fmt.Sprintf("chmod 600 %q", path))
	case info.Size() > maxPINFile:
		return refuse(PINSource, nil, fmt.Sprintf("PIN file %q is too large: %d bytes, at most %d", path, info.Size(), maxPINFile),
			"the file must hold the PIN and nothing else")
	}
	return nil
}
