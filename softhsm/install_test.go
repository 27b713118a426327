package softhsm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

// system is a make-believe system for install.sh: the script with its places moved under root, and a PATH of commands
// that write down how they were called. Installing packages for real is nothing a test may do to its machine.
type system struct {
	root string
	log  string
}

const module = "/usr/lib/softhsm/libsofthsm2.so"

// newSystem makes a system with these commands, each given by name and the shell lines it runs.
func newSystem(t *testing.T, commands map[string]string) system {
	t.Helper()
	root := t.TempDir()
	s := system{root: root, log: filepath.Join(root, "log")}
	text, err := os.ReadFile("install.sh")
	require.NoError(t, err)
	moved := string(text)
	for _, top := range []string{"/usr/", "/opt/", "/home/"} {
		moved = strings.ReplaceAll(moved, "\t\t"+top, "\t\t"+root+top)
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "install.sh"), []byte(moved), 0o700))
	bin := filepath.Join(root, "bin")
	require.NoError(t, os.Mkdir(bin, 0o700))
	for _, name := range []string{"sh", "grep", "env", "mkdir", "touch"} {
		path, err := exec.LookPath(name)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(path, filepath.Join(bin, name)))
	}
	for name, lines := range commands {
		s.add(t, name, lines)
	}
	return s
}

// add gives the system one more command.
func (s system) add(t *testing.T, name, lines string) {
	t.Helper()
	body := "#!/bin/sh\necho \"" + name + " $*\" >>" + s.log + "\n" + lines + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(s.root, "bin", name), []byte(body), 0o700))
}

// installs is what a package manager does when its arguments name SoftHSM.
func (s system) installs() string {
	dir := s.root + filepath.Dir(module)
	return `case "$*" in *softhsm*) mkdir -p ` + dir + "; touch " + dir + "/libsofthsm2.so;; esac"
}

func (s system) run(t *testing.T, args ...string) (calls, out string, err error) {
	t.Helper()
	cmd := exec.Command(filepath.Join(s.root, "bin", "sh"), append([]string{filepath.Join(s.root, "install.sh")}, args...)...)
	cmd.Env = []string{"PATH=" + filepath.Join(s.root, "bin")}
	text, err := cmd.CombinedOutput()
	log, readErr := os.ReadFile(s.log)
	if !os.IsNotExist(readErr) {
		require.NoError(t, readErr)
	}
	return string(log), string(text), err
}

func TestInstallDoesNothingWhenThere(t *testing.T) {
	softhsm.NewToken(t) // for its skip: here SoftHSM itself must be installed
	out, err := exec.Command("sh", "install.sh").CombinedOutput()
	require.NoError(t, err)
	assert.Empty(t, string(out))
}

// withoutID drops the script's questions who it is.
func withoutID(calls string) []string {
	var rest []string
	for line := range strings.Lines(calls) {
		if line = strings.TrimSpace(line); line != "id -u" {
			rest = append(rest, line)
		}
	}
	return rest
}

func TestInstallByPackageManager(t *testing.T) {
	for _, c := range []struct {
		manager, uid string
		want         []string
	}{
		{"dnf", "0", []string{"dnf install -y softhsm"}},
		{"apk", "0", []string{"apk add softhsm"}},
		{"pacman", "1000", []string{"sudo pacman -S --noconfirm --needed softhsm", "pacman -S --noconfirm --needed softhsm"}},
		{"brew", "1000", []string{"brew install softhsm"}},
	} {
		t.Run(c.manager, func(t *testing.T) {
			s := newSystem(t, map[string]string{"sudo": `"$@"`, "id": "echo " + c.uid})
			s.add(t, c.manager, s.installs())
			calls, out, err := s.run(t)
			require.NoError(t, err, out)
			assert.Equal(t, c.want, withoutID(calls))
			assert.Contains(t, out, c.want[0], "it says what it does")
		})
	}
}

func TestInstallOnDebian(t *testing.T) {
	const (
		update  = "apt-get -o DPkg::Lock::Timeout=300 update"
		install = "apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "
		// Only opensc is installed; config-files is what dpkg says of a package that was removed but not purged.
		dpkg = `case $2 in opensc) echo "Status: install ok installed";; swtpm) echo "Status: deinstall ok config-files";; *) exit 1;; esac`
	)
	for _, c := range []struct {
		name    string
		present bool
		args    []string
		want    string
	}{
		{"module only", false, nil, "softhsm2"},
		{"module and packages", false, []string{"jq", "opensc"}, "softhsm2 jq"},
		{"packages only", true, []string{"opensc", "jq", "swtpm"}, "jq swtpm"},
		{"nothing", true, []string{"opensc"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSystem(t, map[string]string{"id": "echo 0", "dpkg": dpkg})
			s.add(t, "apt-get", s.installs())
			if c.present {
				touch(t, s.root+module)
			}
			calls, out, err := s.run(t, c.args...)
			require.NoError(t, err, out)
			if c.want == "" {
				assert.Empty(t, out)
				assert.NotContains(t, calls, "apt-get")
				return
			}
			assert.Contains(t, calls, update+"\n")
			assert.Contains(t, calls, install+strings.TrimSpace(c.want)+"\n")
			assert.Equal(t, 2, strings.Count(calls, "apt-get"), "all in one call")
		})
	}
}

func TestInstallFailures(t *testing.T) {
	t.Run("no package manager", func(t *testing.T) {
		_, out, err := newSystem(t, map[string]string{"id": "echo 0"}).run(t)
		require.Error(t, err)
		assert.Contains(t, out, softhsm.EnvModule)
	})
	t.Run("neither root nor sudo", func(t *testing.T) {
		calls, out, err := newSystem(t, map[string]string{"id": "echo 1000", "dnf": ""}).run(t)
		require.Error(t, err)
		assert.Contains(t, out, "run as root: dnf install -y softhsm")
		assert.NotContains(t, calls, "dnf")
	})
	t.Run("package manager fails", func(t *testing.T) {
		_, _, err := newSystem(t, map[string]string{"id": "echo 0", "dnf": "exit 7"}).run(t)
		require.Error(t, err)
	})
	t.Run("package has no module", func(t *testing.T) {
		_, out, err := newSystem(t, map[string]string{"id": "echo 0", "dnf": ""}).run(t)
		require.Error(t, err)
		assert.Contains(t, out, softhsm.EnvModule)
	})
	t.Run("update fails", func(t *testing.T) {
		s := newSystem(t, map[string]string{"id": "echo 0", "dpkg": "exit 1"})
		s.add(t, "apt-get", `case "$*" in *update) exit 100;; esac; `+s.installs())
		_, out, err := s.run(t)
		require.NoError(t, err, "the lists that are there may do")
		assert.Contains(t, out, "going on")
	})
}
