// Package disk gives tests file systems of their own: small ones that can be filled, and ones that turn read-only.
package disk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Disk is a file system of a test, which ends with it.
type Disk struct {
	Dir string // where it is mounted
	t   testing.TB
}

// New mounts a file system of so many bytes in memory. It reports false where neither this user nor sudo without a password
// may mount one.
func New(t testing.TB, bytes string) (*Disk, bool) {
	t.Helper()
	d := &Disk{Dir: filepath.Join(t.TempDir(), "disk"), t: t}
	if err := os.Mkdir(d.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if !d.mount("mode=0700,size="+bytes, 0) {
		return nil, false
	}
	t.Cleanup(func() {
		if unix.Unmount(d.Dir, unix.MNT_DETACH) == nil {
			return
		}
		if out, err := exec.Command("sudo", "-n", "umount", "--lazy", d.Dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	return d, true
}

func (d *Disk) mount(options string, flags uintptr) bool {
	if unix.Mount("tmpfs", d.Dir, "tmpfs", flags, options) == nil {
		return true
	}
	if flags&unix.MS_REMOUNT != 0 {
		options += ",remount"
	}
	if flags&unix.MS_RDONLY != 0 {
		options += ",ro"
	}
	if flags == 0 {
		options += ",uid=" + strconv.Itoa(os.Getuid())
	}
	return exec.Command("sudo", "-n", "mount", "-t", "tmpfs", "-o", options, "tmpfs", d.Dir).Run() == nil
}

// ReadOnly mounts the file system read-only until the returned function is called. No file on it may be open for writing.
func (d *Disk) ReadOnly() (again func()) {
	d.t.Helper()
	if !d.mount("", unix.MS_REMOUNT|unix.MS_RDONLY) {
		d.t.Fatal("the file system does not turn read-only")
	}
	return func() {
		if !d.mount("", unix.MS_REMOUNT) {
			d.t.Fatal("the file system does not turn read-write")
		}
	}
}

// Fill leaves no space on the file system until the returned function is called.
func (d *Disk) Fill() (free func()) {
	d.t.Helper()
	path := filepath.Join(d.Dir, "ballast")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		d.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		d.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			d.t.Fatal(err)
		}
	}
}
