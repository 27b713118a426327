package softhsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// EnvConfig names the environment variable by which SoftHSM finds its configuration.
const EnvConfig = "SOFTHSM2_CONF"

// maxLine is the longest line that SoftHSM's configuration reader takes in one piece, without the newline.
const maxLine = 1022

const tokenDirKey = "directories.tokendir"

// Config is a SoftHSM configuration in a directory of its own, as made by [Setup]. Its methods are safe for concurrent
// use as long as nobody changes the fields.
type Config struct {
	Dir      string // the directory that Setup was given, absolute
	File     string // softhsm2.conf in it: the value for SOFTHSM2_CONF
	TokenDir string // tokens/ in it, where SoftHSM keeps one directory for each token
	Module   string // path of the module; empty: what Find finds
	// Restored names the tokens, by serial number, whose file was found destroyed and that Setup has restored. An operator
	// should hear of it.
	Restored []string
}

// Setup makes dir a SoftHSM configuration or refreshes the one it holds: softhsm2.conf (mode 0600) and tokens/ (mode
// 0700); dir itself is made with mode 0700 when it is missing. A softhsm2.conf that names another token directory,
// because dir was moved or copied, is written anew; any other is left as it is, so that an operator's log.level stays.
// Setup does not need SoftHSM to be installed.
//
// A token that [Config.CreateToken] made and that a killed process has destroyed since is restored: see "Killed processes"
// in the package's documentation, and Restored in the result.
func Setup(dir string) (*Config, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("setting up SoftHSM in %q: %w", dir, err)
	}
	c := &Config{Dir: abs, File: filepath.Join(abs, "softhsm2.conf"), TokenDir: filepath.Join(abs, "tokens")}
	if err := checkPath(c.TokenDir); err != nil {
		return nil, err
	}
	err = c.makeFiles()
	if err == nil {
		err = c.heal()
	}
	if err != nil {
		return nil, withDiskHint(fmt.Errorf("setting up SoftHSM in %q: %w", dir, err), dir)
	}
	return c, nil
}

func (c *Config) makeFiles() error {
	if err := os.MkdirAll(c.TokenDir, 0o700); err != nil {
		return err
	}
	// MkdirAll leaves an existing directory's mode alone, and SoftHSM makes its files under the process's umask: this
	// directory is what keeps others out.
	if err := setMode(c.TokenDir, 0o700); err != nil {
		return err
	}
	old, err := os.ReadFile(c.File)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err == nil && sameDir(readTokenDir(string(old)), c.TokenDir) {
		return setMode(c.File, 0o600)
	}
	return writeAtomically(c.File, c.text())
}

// setMode leaves a file alone that has the mode already: it may be on a file system that is mounted read-only, where tokens
// can be used all the same.
func setMode(path string, mode fs.FileMode) error {
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm() == mode {
		return nil
	}
	return os.Chmod(path, mode)
}

// sameDir tells whether two paths lead to one directory, as through a symbolic link.
func sameDir(a, b string) bool {
	if a == b {
		return true
	}
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

func (c *Config) text() string {
	return "# SoftHSM configuration. It is written anew when this directory has moved.\n" +
		tokenDirKey + " = " + c.TokenDir + "\n" +
		"objectstore.backend = file\n" +
		"log.level = ERROR\n" +
		"slots.removable = false\n"
}

// checkPath refuses what SoftHSM's configuration reader would cut: it ends a value at '#', '=' and line ends, and a line
// at its buffer's end. It would then work in another directory without a word.
func checkPath(path string) error {
	if i := strings.IndexAny(path, "#=\r\n\x00"); i >= 0 {
		return &hinted{
			fmt.Errorf("writing SoftHSM configuration: path %q holds %q, which SoftHSM cannot read", path, path[i]),
			"choose a directory whose path has no '#', '=' or line break",
		}
	}
	if len(tokenDirKey)+len(" = ")+len(path) > maxLine {
		return &hinted{
			fmt.Errorf("writing SoftHSM configuration: path of %d bytes is too long for SoftHSM", len(path)),
			"choose a directory with a shorter path",
		}
	}
	return nil
}

// readTokenDir reads a configuration the way SoftHSM does and returns its token directory, "" when it names none.
func readTokenDir(conf string) string {
	dir := ""
	for line := range strings.Lines(conf) {
		line, _, _ = strings.Cut(strings.TrimRight(line, "\r\n"), "#")
		fields := strings.SplitN(line, "=", 3)
		if len(fields) > 1 && strings.TrimSpace(fields[0]) == tokenDirKey {
			dir = strings.TrimSpace(fields[1])
		}
	}
	return dir
}

// writeAtomically replaces file, so that a reader or a crash sees the old or the new text and never a part of it.
func writeAtomically(file, text string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the first error is the one to report
		}
	}()
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// Use makes this configuration the one of the process: it sets SOFTHSM2_CONF, which SoftHSM reads at C_Initialize. When
// the module is initialised in this process with another configuration the error wraps [ErrOtherConfiguration].
func (c *Config) Use() error {
	provisioning.Lock()
	defer provisioning.Unlock()
	return c.use()
}

// use is Use for callers that hold provisioning.
func (c *Config) use() error {
	if os.Getenv(EnvConfig) == c.File {
		return nil
	}
	if m, err := c.load(); err == nil && m.initialized() {
		return otherConfiguration(os.Getenv(EnvConfig), c.File)
	}
	if err := os.Setenv(EnvConfig, c.File); err != nil {
		return fmt.Errorf("setting %s: %w", EnvConfig, err)
	}
	return nil
}

// otherConfiguration is the error for a module that was initialised with the configuration have, "" when that is not
// known.
func otherConfiguration(have, want string) error {
	err := fmt.Errorf("using SoftHSM configuration %q: %w", want, ErrOtherConfiguration)
	if have != "" {
		err = fmt.Errorf("%w: %q", err, have)
	}
	return &hinted{err, "finalize the module before, or work with the other configuration in a process of its own"}
}
