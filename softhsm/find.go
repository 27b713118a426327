package softhsm

import (
	"os"
	"path/filepath"
	"runtime"
)

// EnvModule names the environment variable that overrides where [Find] looks.
const EnvModule = "SOFTHSM2_MODULE"

// multiarch maps GOARCH to the library folder that Debian and Ubuntu use for it. Only the folder of this process's own
// architecture is looked at: a foreign module cannot be loaded.
var multiarch = map[string]string{
	"386":     "i386-linux-gnu",
	"amd64":   "x86_64-linux-gnu",
	"arm":     "arm-linux-gnueabihf",
	"arm64":   "aarch64-linux-gnu",
	"loong64": "loongarch64-linux-gnu",
	"ppc64le": "powerpc64le-linux-gnu",
	"riscv64": "riscv64-linux-gnu",
	"s390x":   "s390x-linux-gnu",
}

// Find returns the path of SoftHSM's PKCS#11 module. SOFTHSM2_MODULE, when set, is the only place it looks at; otherwise
// it tries the places where Debian, Ubuntu, Fedora, RHEL, openSUSE, Alpine, Arch, FreeBSD and Homebrew install it. When
// there is none, the error is a [*NotFoundError]. Find is safe for concurrent use.
func Find() (module string, err error) {
	if m := os.Getenv(EnvModule); m != "" {
		return firstFile([]string{m})
	}
	return firstFile(places("/", runtime.GOARCH))
}

// places lists where module packages put the library, under root and for one architecture, in order of preference.
func places(root, goarch string) []string {
	dirs := []string{"usr/lib/softhsm"} // Debian's link, Alpine, Arch
	if triplet, ok := multiarch[goarch]; ok {
		dirs = append(dirs, "usr/lib/"+triplet+"/softhsm", "usr/lib/"+triplet+"/pkcs11")
	}
	dirs = append(dirs,
		"usr/lib64/pkcs11", "usr/lib64/softhsm", "usr/lib64", // Fedora, RHEL, openSUSE
		"usr/lib/pkcs11",
		"opt/homebrew/lib/softhsm",              // Homebrew on Apple silicon
		"usr/local/lib/softhsm",                 // Homebrew on Intel, FreeBSD, built from source
		"home/linuxbrew/.linuxbrew/lib/softhsm", // Homebrew on Linux
	)
	var files []string
	for _, dir := range dirs {
		files = append(files, filepath.Join(root, dir, "libsofthsm2.so"))
	}
	for _, dir := range []string{"opt/homebrew/lib/softhsm", "usr/local/lib/softhsm"} {
		files = append(files, filepath.Join(root, dir, "libsofthsm2.dylib"))
	}
	return files
}

func firstFile(files []string) (string, error) {
	for _, file := range files {
		abs, err := filepath.Abs(file)
		if err != nil {
			continue
		}
		if info, err := os.Stat(abs); err == nil && info.Mode().IsRegular() {
			return abs, nil
		}
	}
	return "", &NotFoundError{Places: files}
}
